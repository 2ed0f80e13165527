/* Activations and layer normalisation that are computed after a product, in passes over its rows. Those that matmul.c
 * applies to tiles need none of this. */

INLINE Vector choose(Mask mask, Vector x, Vector otherwise)
{
    return (Vector)((mask & (Mask)x) | (~mask & (Mask)otherwise));
}

/* Computes e^x - 1 and e^x for x <= 0, with a relative error below 3e-7; results below 1.2e-38 become zero. x is n
 * times log 2 and a rest r, of which e^r - 1 is a polynomial (Cephes' expf). */
INLINE void exponentials(Vector x, Vector *minus_one, Vector *whole)
{
    const float p[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                       5.0000001201e-1f};
    const float shift = 12582912.0f; /* 1.5 * 2^23: after it is added, the lowest bits are the rounded number */
    const Mask vanishes = x < -87.3f;
    x = where(~vanishes, x, -87.3f); /* not x >= -87.3, which would lose NaN */
    const Vector shifted = x * 1.44269504f + shift, n = shifted - shift;
    const Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector sum = p[0] + (Vector){0};
    UNROLL
    for (int i = 1; i < 6; i++)
        sum = sum * r + p[i];
    const Vector of_rest = sum * r * r + r;
    const Vector power = (Vector)(((Bits)shifted << 23) + ((Bits){0} + (127u << 23))); /* 2^n */
    *minus_one = of_rest * power + (power - 1.0f);
    *whole = where(~vanishes, of_rest * power + power, 0.0f);
}

/* Computes 1 / (1 + e^-x). */
INLINE Vector sigmoid_of(Vector x)
{
    Vector unused, power;
    exponentials(choose(x > 0.0f, -x, x), &unused, &power);
    return choose(x > 0.0f, 1.0f + (Vector){0}, power) / (1.0f + power);
}

/* Computes the normal distribution's Phi(x), which GELU multiplies x by, and its density. Phi(-z) is the density times a
 * quotient of polynomials, fitted on 0..13.3 for the least relative error. */
INLINE void normal_of(Vector x, Vector *below, Vector *density)
{
    const float p[] = {0.5f, 0.435686159f, 0.181306603f, 0.0399841085f, 0.00402017782f};
    const float q[] = {1.0f, 1.66925724f, 1.19448365f, 0.464379911f, 0.100232678f, 0.0100769482f};
    const Vector z = where(~(x > 14.0f), where(~(x < -14.0f), choose(x > 0.0f, x, -x), 14.0f), 14.0f);
    Vector unused, power, above = p[4] + (Vector){0}, under = q[5] * z + q[4];
    exponentials(-0.5f * z * z, &unused, &power);
    UNROLL
    for (int i = 3; i >= 0; i--) {
        above = above * z + p[i];
        under = under * z + q[i];
    }
    const Vector tail = power * above / under;
    *below = choose(x > 0.0f, 1.0f - tail, tail);
    *density = power * 0.398942280f;
}

/* Computes the activation of x. */
INLINE Vector activated(Activation activation, Vector x)
{
    Vector first, second;
    switch (activation) {
    case WITH_TANH:
        return tanh_of(x);
    case WITH_RELU:
        return where(~(x < 0.0f), x, 0.0f);
    case WITH_LEAKY_RELU:
        return choose(x > 0.0f, x, 0.01f * x);
    case WITH_ELU:
        exponentials(where(~(x > 0.0f), x, 0.0f), &first, &second);
        return choose(x > 0.0f, x, first);
    case WITH_SILU:
        return x * sigmoid_of(x);
    case WITH_GELU:
        normal_of(x, &first, &second);
        return x * first;
    default:
        return x;
    }
}

/* Computes the activation's derivative at x. */
INLINE Vector slope(Activation activation, Vector x)
{
    Vector first, second;
    switch (activation) {
    case WITH_TANH:
        first = tanh_of(x);
        return 1.0f - first * first;
    case WITH_RELU:
        return choose(x == x, where(x > 0.0f, 1.0f + (Vector){0}, 0.0f), x); /* NaN stays visible */
    case WITH_LEAKY_RELU:
        return choose(x == x, where(x > 0.0f, 1.0f + (Vector){0}, 0.01f), x);
    case WITH_ELU:
        exponentials(where(~(x > 0.0f), x, 0.0f), &first, &second);
        return choose(x > 0.0f, 1.0f + (Vector){0}, second);
    case WITH_SILU:
        first = sigmoid_of(x);
        return first * (1.0f + x * (1.0f - first));
    case WITH_GELU:
        normal_of(x, &first, &second);
        return first + where(~(second == 0.0f), x, 0.0f) * second; /* far out, x may be infinite */
    default:
        return 1.0f + (Vector){0};
    }
}

/* Loads the first `left` lanes, or all of them where there are more; the others are zero. */
INLINE Vector load_up_to(const float *from, int64_t left)
{
    if (left >= LANES)
        return load(from);
    float whole[LANES] = {0};
    memcpy(whole, from, left * sizeof(float));
    return load(whole);
}

INLINE void store_up_to(float *to, Vector x, int64_t left)
{
    if (left >= LANES) {
        store(to, x);
    } else {
        float whole[LANES];
        store(whole, x);
        memcpy(to, whole, left * sizeof(float));
    }
}

/* Sets the lanes from `left` on to zero. */
INLINE Vector without_lanes_from(Vector x, int64_t left)
{
    float whole[LANES] = {0};
    store_up_to(whole, x, left);
    return load(whole);
}

INLINE float sum_of_lanes(Vector x)
{
    float lanes[LANES], sum = 0;
    store(lanes, x);
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

/* Normalises a row in place to a mean of zero and a variance of one (Ba et al. 2016), as torch.nn.LayerNorm does with
 * its usual eps. Returns the factor that scaled it. */
KERNEL float normalize(float *x, int64_t size)
{
    Vector sums = {0}, squares = {0};
    for (int64_t j = 0; j < size; j += LANES)
        sums += load_up_to(x + j, size - j);
    const float mean = sum_of_lanes(sums) / (float)size;
    for (int64_t j = 0; j < size; j += LANES) {
        const Vector centred = without_lanes_from(load_up_to(x + j, size - j) - mean, size - j);
        squares += centred * centred;
        store_up_to(x + j, centred, size - j);
    }
    const float scale = 1 / sqrtf(sum_of_lanes(squares) / (float)size + 1e-5f);
    for (int64_t j = 0; j < size; j += LANES)
        store_up_to(x + j, load_up_to(x + j, size - j) * scale, size - j);
    return scale;
}

/* Finishes rows of a hidden layer. `inputs` are the layer's products, which become the normalised ones if it has a
 * normalisation, with their factors in `scales`; `y` are the layer's outputs. */
KERNEL void activate(const Layer *layer, Activation activation, int64_t rows, float *inputs, float *scales, float *y)
{
    const int64_t size = layer->outputs;
    if (!layer->gain) {
        for (int64_t i = 0; i < rows * size; i += LANES)
            store_up_to(y + i, activated(activation, load_up_to(inputs + i, rows * size - i)), rows * size - i);
        return;
    }
    for (int64_t i = 0; i < rows; i++, inputs += size, y += size) {
        scales[i] = normalize(inputs, size);
        for (int64_t j = 0; j < size; j += LANES) {
            const int64_t left = size - j;
            const Vector gain = load_up_to(layer->gain + j, left), shift = load_up_to(layer->shift + j, left);
            store_up_to(y + j, activated(activation, load_up_to(inputs + j, left) * gain + shift), left);
        }
    }
}

/* Turns d loss / d outputs of rows of a hidden layer into d loss / d products, in place, given what `activate` left in
 * `inputs` and `scales`. Writes the normalisation's derivatives, or with `add` adds to them. */
KERNEL void differentiate(const Layer *layer, Activation activation, int64_t rows, const float *inputs,
                          const float *scales, bool add, float *d)
{
    const int64_t size = layer->outputs;
    if (!layer->gain) {
        for (int64_t i = 0; i < rows * size; i += LANES) {
            const int64_t left = rows * size - i;
            store_up_to(d + i, load_up_to(d + i, left) * slope(activation, load_up_to(inputs + i, left)), left);
        }
        return;
    }
    if (!add) {
        memset(layer->d_gain, 0, size * sizeof(float));
        memset(layer->d_shift, 0, size * sizeof(float));
    }
    for (int64_t i = 0; i < rows; i++, inputs += size, d += size) {
        Vector sums = {0}, products = {0};
        for (int64_t j = 0; j < size; j += LANES) {
            const int64_t left = size - j;
            const Vector gain = load_up_to(layer->gain + j, left), shift = load_up_to(layer->shift + j, left);
            const Vector x = load_up_to(inputs + j, left);
            const Vector d_shifted = load_up_to(d + j, left) * slope(activation, x * gain + shift);
            store_up_to(layer->d_shift + j, load_up_to(layer->d_shift + j, left) + d_shifted, left);
            store_up_to(layer->d_gain + j, load_up_to(layer->d_gain + j, left) + d_shifted * x, left);
            const Vector d_normalized = without_lanes_from(d_shifted * gain, left);
            store_up_to(d + j, d_normalized, left);
            sums += d_normalized;
            products += d_normalized * x;
        }
        const float mean = sum_of_lanes(sums) / (float)size, product = sum_of_lanes(products) / (float)size;
        for (int64_t j = 0; j < size; j += LANES) {
            const Vector x = load_up_to(inputs + j, size - j);
            store_up_to(d + j, (load_up_to(d + j, size - j) - mean - x * product) * scales[i], size - j);
        }
    }
}
