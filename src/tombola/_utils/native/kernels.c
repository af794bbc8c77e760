// What one pass does in place of many: compiled when first needed, with the machine's own compiler.
#include <math.h>
#include <stdint.h>
#include <string.h>

#define NUMBER float
#define SQRT sqrtf
#define NAME adam_float32
#include "adam.h"
#undef NUMBER
#undef SQRT
#undef NAME

#define NUMBER double
#define SQRT sqrt
#define NAME adam_float64
#include "adam.h"

void select_float32(long n, const unsigned char *restrict mask, const float *restrict x, float *restrict y)
{
    for (long i = 0; i < n; i++)
        y[i] = mask[i] ? x[i] : 0;
}

void select_float64(long n, const unsigned char *restrict mask, const double *restrict x, double *restrict y)
{
    for (long i = 0; i < n; i++)
        y[i] = mask[i] ? x[i] : 0;
}

#define BLOCK 1024
static const unsigned char ones[BLOCK] = {[0 ... BLOCK - 1] = 1};

#undef NAME
#define WORD uint32_t
#define NAME(step) step##_float32
#include "select.h"
#undef WORD
#undef NAME

#define WORD uint64_t
#define NAME(step) step##_float64
#include "select.h"
// The same for tensors that lie apart: the result is one vector.
void select_parts_float32(long parts, const long *sizes, const float *const *x, const unsigned char *mask, float *y)
{
    for (long i = 0; i < parts; mask += sizes[i], y += sizes[i], i++)
        select_float32(sizes[i], mask, x[i], y);
}

void select_parts_float64(long parts, const long *sizes, const double *const *x, const unsigned char *mask, double *y)
{
    for (long i = 0; i < parts; mask += sizes[i], y += sizes[i], i++)
        select_float64(sizes[i], mask, x[i], y);
}
