/* The kernels for 64-bit ARM processors, which all have NEON: 32 registers of 4 floats. */
#if defined(__aarch64__)

#define TARGET
#define LANES 4
#define TILE_ROWS 12 /* a tile of 12 x 8 sums takes 24 registers */
#define TILE_HEIGHTS(of) of(12) of(8) of(4) of(3) of(2) of(1)
#define KERNELS neon_kernels
#define NAME "neon"
#include "vectors.h"

#endif
