/* A fixed amount of the engine's work, for counting its instructions: gradient steps of a network with two hidden layers.
 *
 *     engine_work ROWS HIDDEN tanh|relu STEPS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static uint32_t state = 1;

/* So many floats in -1..1, the same on every machine. */
static float *numbers(int64_t count)
{
    float *found = malloc(count * sizeof(float));
    if (!found)
        exit(1);
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        found[i] = (float)(int32_t)state / 2147483648.0f;
    }
    return found;
}

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    const int64_t rows = atoll(arguments[1]), hidden = atoll(arguments[2]), sizes[] = {4, hidden, hidden, 2};
    const char *const names[] = {"identity", "tanh", "relu", "elu", "silu", "gelu", "leaky_relu"};
    const bool normalizes = strncmp(arguments[3], "norm-", 5) == 0;
    Activation activation = WITHOUT;
    for (int i = 0; i < 7; i++)
        if (strcmp(arguments[3] + (normalizes ? 5 : 0), names[i]) == 0)
            activation = (Activation)i;
    int64_t weights = 0;
    for (int l = 0; l < 3; l++)
        weights += (sizes[l] + 3) * sizes[l + 1];
    float *parameters = numbers(weights), *gradients = numbers(weights);
    float *moments[] = {calloc(weights, sizeof(float)), calloc(weights, sizeof(float))};
    Layer layers[3];
    for (int64_t l = 0, start = 0; l < 3; l++) {
        const int64_t biases = start + sizes[l] * sizes[l + 1];
        layers[l] = (Layer){sizes[l],           sizes[l + 1],          parameters + start,
                            parameters + biases, gradients + start, gradients + biases};
        start = biases + sizes[l + 1];
        if (normalizes && l < 2) {
            layers[l].gain = parameters + start, layers[l].d_gain = gradients + start;
            layers[l].shift = parameters + start + sizes[l + 1], layers[l].d_shift = gradients + start + sizes[l + 1];
            start += 2 * sizes[l + 1];
        }
    }
    weights = layers[2].biases + 2 - parameters;
#if defined(__x86_64__)
    const Kernels *const kernels = &avx2_kernels; /* valgrind does not know AVX-512 */
#else
    const Kernels *const kernels = &neon_kernels;
#endif
    const Mlp mlp = {3, layers, activation, normalizes || activation > WITH_RELU};
    float *x = numbers(rows * 4), *outputs = numbers(rows * 2), *targets = numbers(rows), *d_outputs = numbers(rows * 2);
    float *errors = numbers(rows), *workspace = numbers(kernels->mlp_workspace_floats(&mlp, rows));
    int64_t *action = calloc(rows, sizeof(int64_t));
    double loss = 0;
    for (int64_t step = 1; step <= atoll(arguments[4]); step++) {
        kernels->mlp_forward(&mlp, rows, x, outputs, workspace);
        kernels->td_loss(rows, 2, outputs, action, targets, NULL, true, d_outputs, errors, &loss);
        kernels->mlp_backward(&mlp, rows, x, d_outputs, workspace);
        kernels->clip_global_norm(weights, gradients, 0.5);
        kernels->adam(weights, parameters, gradients, moments[0], moments[1], step, 1e-3, 0.9, 0.999, 1e-8);
    }
    printf("%.9g\n", loss);
    return 0;
}
