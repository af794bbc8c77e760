// What one pass does in place of many: compiled when first needed, with the machine's own compiler.
#include <math.h>

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
