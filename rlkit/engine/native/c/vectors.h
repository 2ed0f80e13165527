/* All kernels for one kind of vector instructions, in the compilers' vector types (gcc 12 or clang). The file that
 * includes this has defined
 *
 *     TARGET            the attribute of functions that may use the instructions
 *     LANES             floats in a vector: 4, 8 or 16
 *     TILE_ROWS         rows of a tile of sums that stays in registers; the tile is two vectors wide
 *     TILE_HEIGHTS(of)  of(6) of(5) ...: the tiles that there are, the highest with TILE_ROWS rows, the lowest with one
 *     KERNELS, NAME     the table to make, and its name for RLKIT_SIMD
 */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define KERNEL static TARGET
#define INLINE static inline __attribute__((always_inline)) TARGET

/* Before a loop with a constant number of rounds, at most 12: it is unrolled, so that arrays become registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES))); /* all bits of a lane are set, or none */
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef float Four __attribute__((vector_size(16)));

INLINE Vector load(const float *from)
{
    Vector x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, Vector x)
{
    memcpy(to, &x, sizeof x);
}

INLINE Four load_four(const float *from)
{
    Four x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* Lanes of `x` where the mask is set, and the number elsewhere. */
INLINE Vector where(Mask mask, Vector x, float otherwise)
{
    return (Vector)((mask & (Mask)x) | (~mask & (Mask)(otherwise + (Vector){0})));
}

/* The same shuffle within each four lanes, as most processors do it fastest. Numbers from LANES on are lanes of `y`. */
#define FOUR_FROM(start, a, b, c, d) (a) + (start), (b) + (start), (c) + (start), (d) + (start)
#if LANES == 4
#define SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#elif LANES == 8
#define SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, FOUR_FROM(0, __VA_ARGS__), FOUR_FROM(4, __VA_ARGS__))
#else
#define SHUFFLE(x, y, ...)                                                                                            \
    __builtin_shufflevector(x, y, FOUR_FROM(0, __VA_ARGS__), FOUR_FROM(4, __VA_ARGS__), FOUR_FROM(8, __VA_ARGS__),    \
                            FOUR_FROM(12, __VA_ARGS__))
#endif

/* ---- matmul.c ---- */

/* c = finish(a b + bias); with `add`, c + a b. Element (i, k) of `a` is at a[i * a_row + k * a_step], (k, j) of `b` at
 * b[k * b_step + j * b_column], so that either may be a transposed view; `c`, (rows, columns), is dense. */
typedef struct {
    int64_t rows, columns, depth;
    const float *a;
    int64_t a_row, a_step;
    const float *b;
    int64_t b_step, b_column;
    float *c;
    const float *bias; /* one number per column, or NULL */
    bool add;
    Finish finish;
    const float *outputs; /* the activations h that derivatives need, of the shape of `c` */
} Product;

/* Number of floats that `matmul` needs as `packing`, to rearrange a transposed `a` with so many rows. */
KERNEL int64_t packing_floats(int64_t rows);

/* Computes a product; `packing` may be NULL if a_step is 1, when `a` is not transposed. */
KERNEL void matmul(const Product *product, float *packing);

#include "matmul.c"
#include "activations.c"
#include "mlp.c"
#include "optimizers.c"
#include "losses.c"

const Kernels KERNELS = {
    .name = NAME,
    .mlp_workspace_floats = mlp_workspace_floats,
    .mlp_forward = mlp_forward,
    .mlp_backward = mlp_backward,
    .clip_global_norm = clip_global_norm,
    .adam = adam,
    .rmsprop = rmsprop,
    .policy_loss_floats = policy_loss_floats,
    .policy_loss = policy_loss,
    .td_loss = td_loss,
};
