/* The kernels for x86-64 processors with AVX-512: 32 registers of 16 floats. */
#if defined(__x86_64__)

#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma")))
#define LANES 16
#define TILE_ROWS 12 /* a tile of 12 x 32 sums takes 24 registers */
#define TILE_HEIGHTS(of) of(12) of(8) of(4) of(3) of(2) of(1)
#define KERNELS avx512_kernels
#define NAME "avx512"
#include "vectors.h"

#endif
