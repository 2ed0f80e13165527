/* The kernels for x86-64 processors with AVX2 and FMA: 16 registers of 8 floats. */
#if defined(__x86_64__)

#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define TILE_ROWS 6 /* a tile of 6 x 16 sums takes 12 registers; two vectors of `b` and one of `a` take three more */
#define TILE_HEIGHTS(of) of(6) of(5) of(4) of(3) of(2) of(1)
#define KERNELS avx2_kernels
#define NAME "avx2"
#include "vectors.h"

#endif
