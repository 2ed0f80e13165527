/* Products of small matrices. A layer's bias and activation are applied to each tile while it is still in registers. */

enum {
    TILE_COLUMNS = 2 * LANES,
    BLOCK_DEPTH = 256, /* depth of a panel of `b`: its 16 kB (32 kB with 16 lanes) stay in the first-level cache */
    FEW_COLUMNS = 4,   /* up to so many columns of a product are computed one by one */
};

/* Approximates tanh by x p(x^2) / q(x^2). The polynomials are fitted on -8..8 for the least relative error, which is
 * 3.2e-7 with rounding, and results never exceed +-1. Beyond +-8, where tanh is within 2.3e-7 of +-1, the value at +-8
 * is used. This takes an eighth of the time of the C library's tanhf. */
INLINE Vector tanh_of(Vector x)
{
    const float p[] = {1.0f, 0.134445027f, 0.0035716030f, 2.18947425e-05f, 1.52305333e-08f};
    const float q[] = {1.0f, 0.467778295f, 0.0261644609f, 3.41130013e-04f, 8.52249286e-07f};
    x = where(~(x > 8.0f), x, 8.0f); /* not x <= 8, which would lose NaN */
    x = where(~(x < -8.0f), x, -8.0f);
    const Vector square = x * x;
    Vector above = p[4] * square + p[3], below = q[4] * square + q[3];
    UNROLL
    for (int i = 2; i >= 0; i--) {
        above = above * square + p[i];
        below = below * square + q[i];
    }
    return x * above / below;
}

/* Applies `finish` to a vector of elements of a product; `outputs` points at their counterparts. */
INLINE Vector finished(Vector x, Finish finish, const float *outputs)
{
    switch (finish) {
    case TANH:
        return tanh_of(x);
    case RELU:
        return where(~(x < 0.0f), x, 0.0f);
    case TANH_DERIVATIVE: {
        const Vector h = load(outputs);
        return x * (1.0f - h * h);
    }
    case RELU_DERIVATIVE: /* a product with zero, so that NaN stays visible */
        return x * where(load(outputs) > 0.0f, 1.0f + (Vector){0}, 0.0f);
    default:
        return x;
    }
}

/* A tile of the product, which stays in registers: `rows` x (LANES * `vectors`) elements. The last columns may be
 * beyond the matrix; only `columns` of them are stored. */
typedef struct {
    int64_t depth;
    const float *a;
    int64_t a_row, a_step;
    const float *b; /* a panel: TILE_COLUMNS numbers for each step of the depth */
    float *c;
    int64_t c_row;
    const float *bias; /* TILE_COLUMNS numbers to start from, or NULL */
    bool add;          /* true: add to the numbers in `c` */
    Finish finish;
    const float *outputs;
} Tile;

/* Computes one tile: the micro-kernel. Its callers give constants as `rows` and `vectors`, so that both loops over them
 * unroll and `sums` become registers. */
INLINE void compute_tile(const Tile *tile, const int rows, const int vectors, int columns)
{
    Vector sums[TILE_ROWS][2];
    UNROLL
    for (int v = 0; v < vectors; v++) {
        const Vector start = tile->bias ? load(tile->bias + LANES * v) : (Vector){0};
        UNROLL
        for (int i = 0; i < rows; i++)
            sums[i][v] = start;
    }
    const float *a = tile->a, *b = tile->b;
    const int64_t a_row = tile->a_row, a_step = tile->a_step;
    for (int64_t k = 0; k < tile->depth; k++) {
        const Vector b0 = load(b), b1 = vectors > 1 ? load(b + LANES) : b0;
        UNROLL
        for (int i = 0; i < rows; i++) {
            const float factor = a[i * a_row];
            sums[i][0] += factor * b0;
            if (vectors > 1)
                sums[i][1] += factor * b1;
        }
        a += a_step;
        b += TILE_COLUMNS;
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            float *c = tile->c + i * tile->c_row + LANES * v;
            const float *outputs = tile->outputs ? tile->outputs + i * tile->c_row + LANES * v : NULL;
            const int left = columns - LANES * v;
            if (left >= LANES) {
                const Vector x = tile->add ? sums[i][v] + load(c) : sums[i][v];
                store(c, finished(x, tile->finish, outputs));
            } else { /* the matrix ends within this vector: go by way of whole vectors in memory */
                float whole[LANES] = {0}, whole_outputs[LANES] = {0};
                if (tile->add)
                    memcpy(whole, c, left * sizeof(float));
                if (outputs)
                    memcpy(whole_outputs, outputs, left * sizeof(float));
                store(whole, finished(sums[i][v] + load(whole), tile->finish, whole_outputs));
                memcpy(c, whole, left * sizeof(float));
            }
        }
    }
}

/* Returns the height of the highest tile that fits into so many rows. */
INLINE int tile_height(int64_t rows)
{
#define IF_IT_FITS(height)                                                                                            \
    if (rows >= height)                                                                                               \
        return height;
    TILE_HEIGHTS(IF_IT_FITS)
#undef IF_IT_FITS
    return 0;
}

/* Calls the micro-kernel for one of TILE_HEIGHTS. */
KERNEL void compute_rows(const Tile *tile, int height, int columns)
{
#define OF_HEIGHT(rows)                                                                                               \
    case rows:                                                                                                        \
        if (columns > LANES)                                                                                          \
            compute_tile(tile, rows, 2, columns);                                                                     \
        else                                                                                                          \
            compute_tile(tile, rows, 1, columns);                                                                     \
        break;
    switch (height) {
        TILE_HEIGHTS(OF_HEIGHT)
    }
#undef OF_HEIGHT
}

/* Joins four numbers of each fourth row from `from` on to a vector; rows from `rows` on repeat the last one. */
INLINE Vector join_fours(const float *from, int64_t row, int rows, int first)
{
#define FOUR(index) load_four(from + (first + 4 * (index) < rows ? first + 4 * (index) : rows - 1) * row)
#if LANES == 4
    return FOUR(0);
#elif LANES == 8
    return __builtin_shufflevector(FOUR(0), FOUR(1), 0, 1, 2, 3, 4, 5, 6, 7);
#else
    typedef float Eight __attribute__((vector_size(32)));
    const Eight low = __builtin_shufflevector(FOUR(0), FOUR(1), 0, 1, 2, 3, 4, 5, 6, 7);
    const Eight high = __builtin_shufflevector(FOUR(2), FOUR(3), 0, 1, 2, 3, 4, 5, 6, 7);
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
#undef FOUR
}

/* Transposes four numbers of each of LANES rows, of which `rows` are there, to four vectors. */
INLINE void transpose(const float *from, int64_t from_row, int rows, float *to, int64_t to_row)
{
    const Vector x0 = join_fours(from, from_row, rows, 0), x1 = join_fours(from, from_row, rows, 1);
    const Vector x2 = join_fours(from, from_row, rows, 2), x3 = join_fours(from, from_row, rows, 3);
    const Vector low01 = SHUFFLE(x0, x1, 0, LANES, 1, LANES + 1), high01 = SHUFFLE(x0, x1, 2, LANES + 2, 3, LANES + 3);
    const Vector low23 = SHUFFLE(x2, x3, 0, LANES, 1, LANES + 1), high23 = SHUFFLE(x2, x3, 2, LANES + 2, 3, LANES + 3);
    store(to, SHUFFLE(low01, low23, 0, 1, LANES, LANES + 1));
    store(to + to_row, SHUFFLE(low01, low23, 2, 3, LANES + 2, LANES + 3));
    store(to + 2 * to_row, SHUFFLE(high01, high23, 0, 1, LANES, LANES + 1));
    store(to + 3 * to_row, SHUFFLE(high01, high23, 2, 3, LANES + 2, LANES + 3));
}

/* Copies a panel of `b` so that the micro-kernel reads it from front to back; fills up with zeros beyond the matrix. */
KERNEL void pack_b(const float *b, int64_t step, int64_t column, int64_t depth, int columns, float *panel)
{
    if (columns < TILE_COLUMNS)
        memset(panel, 0, depth * TILE_COLUMNS * sizeof(float));
    if (column == 1) {
        if (columns == TILE_COLUMNS) /* with this constant size, the copy is two instructions */
            for (int64_t k = 0; k < depth; k++)
                memcpy(panel + k * TILE_COLUMNS, b + k * step, TILE_COLUMNS * sizeof(float));
        else
            for (int64_t k = 0; k < depth; k++)
                memcpy(panel + k * TILE_COLUMNS, b + k * step, columns * sizeof(float));
    } else {
        for (int start = 0; start < columns; start += LANES) {
            const int end = start + LANES < columns ? start + LANES : columns;
            const float *from = b + start * column;
            float *to = panel + start;
            int64_t k = 0;
            if (step == 1 && end == start + LANES) /* known to be whole, they need no comparisons */
                for (; k + 4 <= depth; k += 4)
                    transpose(from + k, column, LANES, to + k * TILE_COLUMNS, TILE_COLUMNS);
            else if (step == 1)
                for (; k + 4 <= depth; k += 4)
                    transpose(from + k, column, end - start, to + k * TILE_COLUMNS, TILE_COLUMNS);
            for (; k < depth; k++)
                for (int j = 0; j < end - start; j++)
                    to[k * TILE_COLUMNS + j] = from[k * step + j * column];
        }
    }
}

/* Copies a transposed `a` tile by tile, with TILE_ROWS numbers for each step of the depth. */
KERNEL void pack_a(const float *a, int64_t row, int64_t step, int64_t depth, int64_t rows, float *packing)
{
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        if (i + TILE_ROWS <= rows && row == 1) /* with this constant size, the copy is a few instructions */
            for (int64_t k = 0; k < depth; k++, packing += TILE_ROWS)
                memcpy(packing, a + i + k * step, TILE_ROWS * sizeof(float));
        else
            for (int64_t k = 0; k < depth; k++, packing += TILE_ROWS)
                for (int r = 0; r < TILE_ROWS && r < rows - i; r++)
                    packing[r] = a[(i + r) * row + k * step];
    }
}

/* Adds each two neighbours of `x` and of `y`. */
INLINE Vector sums_of_pairs(Vector x, Vector y)
{
    return SHUFFLE(x, y, 0, 2, LANES, LANES + 2) + SHUFFLE(x, y, 1, 3, LANES + 1, LANES + 3);
}

/* Sums up the elements of each of four vectors. */
INLINE void sum_up(const Vector x[4], float sums[4])
{
    float fours[LANES]; /* for each four lanes of the vectors, the sums over them */
    store(fours, sums_of_pairs(sums_of_pairs(x[0], x[1]), sums_of_pairs(x[2], x[3])));
    for (int half = LANES / 2; half >= 4; half /= 2)
        for (int i = 0; i < half; i++)
            fours[i] += fours[i + half];
    memcpy(sums, fours, 4 * sizeof(float));
}

/* Computes dot products of a vector with `count` others, `stride` apart: four at a time, by LANES elements each. */
KERNEL void dot_products(const float *vector, const float *others, int64_t stride, int64_t count, int64_t depth,
                         float *results, int64_t result_stride)
{
    const int64_t whole = depth / LANES * LANES;
    for (int64_t i = 0; i < count; i += 4) {
        const int found = count - i < 4 ? (int)(count - i) : 4;
        const float *other[4];
        for (int q = 0; q < 4; q++) /* the last vector stands in for those beyond it */
            other[q] = others + (i + (q < found ? q : found - 1)) * stride;
        Vector parts[4] = {{0}, {0}, {0}, {0}};
        for (int64_t k = 0; k < whole; k += LANES) {
            const Vector factors = load(vector + k);
            UNROLL
            for (int q = 0; q < 4; q++)
                parts[q] += factors * load(other[q] + k);
        }
        float sums[4];
        sum_up(parts, sums);
        for (int q = 0; q < found; q++) {
            for (int64_t k = whole; k < depth; k++)
                sums[q] += vector[k] * other[q][k];
            results[(i + q) * result_stride] = sums[q];
        }
    }
}

/* Computes a product of dense rows and dense columns by dot products. This is for so few rows or columns that tiles
 * would be mostly empty, and rearranging `b` would take longer than the rest. */
KERNEL void multiply_few(const Product *p)
{
    if (p->rows == 1)
        dot_products(p->a, p->b, p->b_column, p->columns, p->depth, p->c, 1);
    else
        for (int64_t j = 0; j < p->columns; j++)
            dot_products(p->b + j * p->b_column, p->a, p->a_row, p->rows, p->depth, p->c + j, p->columns);
    if (p->bias)
        for (int64_t i = 0; i < p->rows; i++)
            for (int64_t j = 0; j < p->columns; j++)
                p->c[i * p->columns + j] += p->bias[j];
    if (p->finish == STORE)
        return;
    const int64_t size = p->rows * p->columns;
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i < LANES ? size - i : LANES;
        float x[LANES] = {0};
        memcpy(x, p->c + i, left * sizeof(float));
        store(x, finished(load(x), p->finish, NULL));
        memcpy(p->c + i, x, left * sizeof(float));
    }
}

/* Computes a product with few columns and a transposed `a` by way of the product's transpose, whose tiles are full. */
KERNEL void multiply_transposed(const Product *p, float *packing)
{
    float *transposed = packing + packing_floats(p->columns); /* `packing` has room for more rows than these columns */
    const Product turned = {
        .rows = p->columns,
        .columns = p->rows,
        .depth = p->depth,
        .a = p->b,
        .a_row = p->b_column,
        .a_step = p->b_step,
        .b = p->a,
        .b_step = p->a_step,
        .b_column = p->a_row,
        .c = transposed,
        .finish = STORE,
    };
    matmul(&turned, packing);
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t j = 0; j < p->columns; j++) {
            const float before = p->add ? p->c[i * p->columns + j] : 0;
            p->c[i * p->columns + j] = before + transposed[j * p->rows + i];
        }
}

KERNEL int64_t packing_floats(int64_t rows)
{
    return (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * BLOCK_DEPTH;
}

KERNEL void matmul(const Product *p, float *packing)
{
    const bool few = p->rows == 1 || p->columns <= FEW_COLUMNS;
    if (few && p->a_step == 1 && p->b_step == 1 && !p->add && !p->outputs) {
        multiply_few(p);
        return;
    }
    const bool turned_is_fuller = p->columns <= TILE_ROWS && p->rows >= TILE_COLUMNS && p->rows > TILE_ROWS;
    if (turned_is_fuller && p->a_step != 1 && p->b_step != 1 && !p->bias && p->finish == STORE) {
        multiply_transposed(p, packing);
        return;
    }
    float panel[BLOCK_DEPTH * TILE_COLUMNS] __attribute__((aligned(64)));
    int64_t k = 0;
    do { /* at least once: with a depth of zero, the product has to be set to zero */
        const int64_t depth = p->depth - k < BLOCK_DEPTH ? p->depth - k : BLOCK_DEPTH;
        const bool first = k == 0, last = k + depth == p->depth;
        const float *a = p->a + k * p->a_step;
        const bool packed = p->a_step != 1;
        if (packed)
            pack_a(a, p->a_row, p->a_step, depth, p->rows, packing);
        for (int64_t j = 0; j < p->columns; j += TILE_COLUMNS) {
            const int columns = p->columns - j < TILE_COLUMNS ? (int)(p->columns - j) : TILE_COLUMNS;
            float bias[TILE_COLUMNS] = {0};
            if (p->bias && first)
                memcpy(bias, p->bias + j, columns * sizeof(float));
            pack_b(p->b + k * p->b_step + j * p->b_column, p->b_step, p->b_column, depth, columns, panel);
            for (int64_t i = 0; i < p->rows;) {
                const int64_t within = i % TILE_ROWS; /* lower tiles share the last TILE_ROWS rows of `packing` */
                const Tile tile = {
                    .depth = depth,
                    .a = packed ? packing + (i - within) * depth + within : a + i * p->a_row,
                    .a_row = packed ? 1 : p->a_row,
                    .a_step = packed ? TILE_ROWS : 1,
                    .b = panel,
                    .c = p->c + i * p->columns + j,
                    .c_row = p->columns,
                    .bias = bias,
                    .add = p->add || !first,
                    .finish = last ? p->finish : STORE,
                    .outputs = p->outputs ? p->outputs + i * p->columns + j : NULL,
                };
                const int height = tile_height(p->rows - i);
                compute_rows(&tile, height, columns);
                i += height;
            }
        }
        k += depth;
    } while (k < p->depth);
}
