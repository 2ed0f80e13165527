/* Optimiser steps on flat arrays of all parameters at once. The loops are plain, for the compiler to vectorise. */

KERNEL double clip_global_norm(int64_t size, float *gradient, double max_norm)
{
    enum { SUMS = 32 }; /* partial sums side by side: they keep the processor busy, and rounding errors small */
    double total = 0;
    for (int64_t start = 0; start < size; start += 64 * SUMS) {
        const int64_t end = start + 64 * SUMS < size ? start + 64 * SUMS : size;
        float sums[SUMS] = {0};
        int64_t i = start;
        for (; i + SUMS <= end; i += SUMS)
            for (int lane = 0; lane < SUMS; lane++)
                sums[lane] += gradient[i + lane] * gradient[i + lane];
        for (int lane = 0; i < end; i++, lane++)
            sums[lane] += gradient[i] * gradient[i];
        for (int lane = 0; lane < SUMS; lane++)
            total += sums[lane];
    }
    const double norm = sqrt(total);
    if (norm > max_norm) {
        const float scale = (float)(max_norm / (norm + 1e-6));
        for (int64_t i = 0; i < size; i++)
            gradient[i] *= scale;
    }
    return norm;
}

KERNEL void adam(int64_t size, float *restrict parameters, const float *restrict gradient, float *restrict exp_avg,
                 float *restrict exp_avg_sq, int64_t steps, double learning_rate, double beta1, double beta2,
                 double eps)
{
    const float step_size = (float)(learning_rate / (1 - pow(beta1, (double)steps)));
    const float correction = (float)(1 / sqrt(1 - pow(beta2, (double)steps)));
    const float weight1 = (float)(1 - beta1), weight2 = (float)(1 - beta2), small = (float)eps;
    for (int64_t i = 0; i < size; i++) {
        const float g = gradient[i];
        exp_avg[i] += weight1 * (g - exp_avg[i]);
        exp_avg_sq[i] += weight2 * (g * g - exp_avg_sq[i]);
        parameters[i] -= step_size * (exp_avg[i] / (sqrtf(exp_avg_sq[i]) * correction + small));
    }
}

KERNEL void rmsprop(int64_t size, float *restrict parameters, const float *restrict gradient,
                    float *restrict square_avg, double learning_rate, double alpha, double eps)
{
    const float rate = (float)learning_rate, weight = (float)(1 - alpha), small = (float)eps;
    for (int64_t i = 0; i < size; i++) {
        const float g = gradient[i];
        square_avg[i] += weight * (g * g - square_avg[i]);
        parameters[i] -= rate * (g / (sqrtf(square_avg[i]) + small));
    }
}
