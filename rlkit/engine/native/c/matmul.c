/* Products of small matrices. A layer's bias and activation are applied to each tile while it is still in registers. */

#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "kernels.h"

enum {
    LANES = 8,           /* floats in a register */
    TILE_ROWS = 6,       /* a tile of 6 x 16 sums takes 12 of the 16 registers; */
    TILE_COLUMNS = 16,   /* two vectors of `b` and one of `a` take three more */
    BLOCK_DEPTH = 256,   /* depth of a panel of `b`: its 16 kB stay in the first-level cache */
    FEW_COLUMNS = 4,     /* up to so many columns of a product are computed one by one */
};

/* Approximates tanh by x p(x^2) / q(x^2). The polynomials are fitted on -8..8 for the least relative error, which is
 * 3.2e-7 with rounding, and results never exceed +-1. Beyond +-8, where tanh is within 2.3e-7 of +-1, the value at +-8
 * is used. This takes an eighth of the time of the C library's tanhf. */
INLINE __m256 tanh_of(__m256 x)
{
    const float p[] = {1.0f, 0.134445027f, 0.0035716030f, 2.18947425e-05f, 1.52305333e-08f};
    const float q[] = {1.0f, 0.467778295f, 0.0261644609f, 3.41130013e-04f, 8.52249286e-07f};
    /* The limit is the first operand, because min and max return the second one if either is NaN: so NaN survives. */
    x = _mm256_max_ps(_mm256_set1_ps(-8.0f), _mm256_min_ps(_mm256_set1_ps(8.0f), x));
    __m256 square = _mm256_mul_ps(x, x);
    __m256 above = _mm256_set1_ps(p[4]), below = _mm256_set1_ps(q[4]);
#pragma GCC unroll 4
    for (int i = 3; i >= 0; i--) {
        above = _mm256_fmadd_ps(above, square, _mm256_set1_ps(p[i]));
        below = _mm256_fmadd_ps(below, square, _mm256_set1_ps(q[i]));
    }
    return _mm256_div_ps(_mm256_mul_ps(x, above), below);
}

/* Applies `finish` to eight elements of a product; `outputs` points at their counterparts. */
INLINE __m256 finished(__m256 x, Finish finish, const float *outputs)
{
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f);
    switch (finish) {
    case TANH:
        return tanh_of(x);
    case RELU:
        return _mm256_max_ps(zero, x);
    case TANH_DERIVATIVE: {
        __m256 h = _mm256_loadu_ps(outputs);
        return _mm256_mul_ps(x, _mm256_fnmadd_ps(h, h, one));
    }
    case RELU_DERIVATIVE: {
        __m256 positive = _mm256_cmp_ps(_mm256_loadu_ps(outputs), zero, _CMP_GT_OQ);
        return _mm256_mul_ps(x, _mm256_and_ps(positive, one)); /* a product with zero, so that NaN stays visible */
    }
    default:
        return x;
    }
}

/* A tile of the product, which stays in registers: `rows` x (8 * `vectors`) elements. The last columns may be beyond
 * the matrix; only `columns` of them are stored. */
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
    __m256 sums[TILE_ROWS][2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        __m256 start = tile->bias ? _mm256_loadu_ps(tile->bias + LANES * v) : _mm256_setzero_ps();
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
            sums[i][v] = start;
    }
    const float *a = tile->a, *b = tile->b;
    const int64_t a_row = tile->a_row, a_step = tile->a_step;
    for (int64_t k = 0; k < tile->depth; k++) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = vectors > 1 ? _mm256_loadu_ps(b + LANES) : b0;
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m256 factor = _mm256_broadcast_ss(a + i * a_row);
            sums[i][0] = _mm256_fmadd_ps(factor, b0, sums[i][0]);
            if (vectors > 1)
                sums[i][1] = _mm256_fmadd_ps(factor, b1, sums[i][1]);
        }
        a += a_step;
        b += TILE_COLUMNS;
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *c = tile->c + i * tile->c_row + LANES * v;
            const float *outputs = tile->outputs ? tile->outputs + i * tile->c_row + LANES * v : NULL;
            const int left = columns - LANES * v;
            if (left >= LANES) {
                __m256 x = tile->add ? _mm256_add_ps(sums[i][v], _mm256_loadu_ps(c)) : sums[i][v];
                _mm256_storeu_ps(c, finished(x, tile->finish, outputs));
            } else { /* the matrix ends within this register: go by way of whole registers in memory */
                float whole[LANES] = {0}, whole_outputs[LANES] = {0};
                if (tile->add)
                    memcpy(whole, c, left * sizeof(float));
                if (outputs)
                    memcpy(whole_outputs, outputs, left * sizeof(float));
                __m256 x = _mm256_add_ps(sums[i][v], _mm256_loadu_ps(whole));
                _mm256_storeu_ps(whole, finished(x, tile->finish, whole_outputs));
                memcpy(c, whole, left * sizeof(float));
            }
        }
    }
}

/* Calls the micro-kernel for a number of rows up to TILE_ROWS. */
AVX2 static void compute_rows(const Tile *tile, int64_t rows, int columns)
{
#define WITH_ROWS(count)                                                                                              \
    case count:                                                                                                       \
        if (columns > LANES)                                                                                          \
            compute_tile(tile, count, 2, columns);                                                                    \
        else                                                                                                          \
            compute_tile(tile, count, 1, columns);                                                                    \
        break;
    switch (rows) {
        WITH_ROWS(1)
        WITH_ROWS(2)
        WITH_ROWS(3)
        WITH_ROWS(4)
        WITH_ROWS(5)
        WITH_ROWS(6)
    }
#undef WITH_ROWS
}

/* Transposes eight rows of eight numbers: first within pairs of rows, then fours, then all eight. */
INLINE void transpose(const float *from, int64_t from_row, float *to, int64_t to_row)
{
    __m256 rows[8], pairs[8], fours[8];
    for (int i = 0; i < 8; i++)
        rows[i] = _mm256_loadu_ps(from + i * from_row);
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_row, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_row, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
    }
}

/* Copies a panel of `b` so that the micro-kernel reads it from front to back; fills up with zeros beyond the matrix. */
AVX2 static void pack_b(const float *b, int64_t step, int64_t column, int64_t depth, int columns, float *panel)
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
        for (int start = 0; start < columns; start += 8) {
            const int end = start + 8 < columns ? start + 8 : columns;
            int64_t k = 0;
            if (step == 1 && end == start + 8) /* whole blocks of eight are transposed in registers */
                for (; k + 8 <= depth; k += 8)
                    transpose(b + k + start * column, column, panel + k * TILE_COLUMNS + start, TILE_COLUMNS);
            for (; k < depth; k++)
                for (int j = start; j < end; j++)
                    panel[k * TILE_COLUMNS + j] = b[k * step + j * column];
        }
    }
}

/* Copies a transposed `a` tile by tile, with TILE_ROWS numbers for each step of the depth. */
AVX2 static void pack_a(const float *a, int64_t row, int64_t step, int64_t depth, int64_t rows, float *packing)
{
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        if (i + TILE_ROWS <= rows)
            for (int64_t k = 0; k < depth; k++, packing += TILE_ROWS)
                for (int r = 0; r < TILE_ROWS; r++)
                    packing[r] = a[(i + r) * row + k * step];
        else
            for (int64_t k = 0; k < depth; k++, packing += TILE_ROWS)
                for (int r = 0; r < rows - i; r++)
                    packing[r] = a[(i + r) * row + k * step];
    }
}

/* Sums up the elements of each of four registers. */
INLINE __m128 sums_of(const __m256 x[4])
{
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/* Computes dot products of a vector with `count` others, `stride` apart: four at a time, by eight elements each. */
AVX2 static void dot_products(const float *vector, const float *others, int64_t stride, int64_t count, int64_t depth,
                              float *results, int64_t result_stride)
{
    const int64_t whole = depth / LANES * LANES;
    for (int64_t i = 0; i < count; i += 4) {
        const int found = count - i < 4 ? (int)(count - i) : 4;
        const float *other[4];
        for (int q = 0; q < 4; q++) /* the last vector stands in for those beyond it */
            other[q] = others + (i + (q < found ? q : found - 1)) * stride;
        __m256 parts[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int64_t k = 0; k < whole; k += LANES) {
            const __m256 factors = _mm256_loadu_ps(vector + k);
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++)
                parts[q] = _mm256_fmadd_ps(factors, _mm256_loadu_ps(other[q] + k), parts[q]);
        }
        float sums[4];
        _mm_storeu_ps(sums, sums_of(parts));
        for (int q = 0; q < found; q++) {
            for (int64_t k = whole; k < depth; k++)
                sums[q] += vector[k] * other[q][k];
            results[(i + q) * result_stride] = sums[q];
        }
    }
}

/* Computes a product of dense rows and dense columns by dot products. This is for so few rows or columns that tiles
 * would be mostly empty, and rearranging `b` would take longer than the rest. */
AVX2 static void multiply_few(const Product *p)
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
        _mm256_storeu_ps(x, finished(_mm256_loadu_ps(x), p->finish, NULL));
        memcpy(p->c + i, x, left * sizeof(float));
    }
}

/* Computes a product with few columns and a transposed `a` by way of the product's transpose, whose tiles are full. */
AVX2 static void multiply_transposed(const Product *p, float *packing)
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

int64_t packing_floats(int64_t rows)
{
    return (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * BLOCK_DEPTH;
}

AVX2 void matmul(const Product *p, float *packing)
{
    const bool few = p->rows == 1 || p->columns <= FEW_COLUMNS;
    if (few && p->a_step == 1 && p->b_step == 1 && !p->add && !p->outputs) {
        multiply_few(p);
        return;
    }
    if (p->columns <= TILE_ROWS && p->rows >= TILE_COLUMNS && p->a_step != 1 && p->b_step != 1 && !p->bias &&
        p->finish == STORE) {
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
            for (int64_t i = 0; i < p->rows; i += TILE_ROWS) {
                const Tile tile = {
                    .depth = depth,
                    .a = packed ? packing + i * depth : a + i * p->a_row,
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
                compute_rows(&tile, p->rows - i < TILE_ROWS ? p->rows - i : TILE_ROWS, columns);
            }
        }
        k += depth;
    } while (k < p->depth);
}
