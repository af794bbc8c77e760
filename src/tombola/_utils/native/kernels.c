// What one pass does in place of many: compiled when first needed, with the machine's own compiler.
#include <math.h>

#define PIECE 4096 // weights whose mask is unpacked at a time, into the cache

// A byte, not 0 where the bit is set, for each of the first n bits (up to 7 more are written).
static void unpack(long n, const unsigned char *restrict bits, unsigned char *restrict mask)
{
    for (long i = 0; i < (n + 7) / 8; i++)
        for (int j = 0; j < 8; j++)
            mask[8 * i + j] = bits[i] & (128 >> j);
}

#define NUMBER float
#define SQRT sqrtf
#define NAME(kernel) kernel##_float32
#include "kernels.h"
#undef NUMBER
#undef SQRT
#undef NAME

#define NUMBER double
#define SQRT sqrt
#define NAME(kernel) kernel##_float64
#include "kernels.h"
