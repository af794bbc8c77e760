// For numbers of one size: NUMBER, SQRT and NAME are given.

// One step of Adam over the entries whose mask byte is not 0, in one pass.
// Every operation rounds by itself (no contraction), in the order of optim/adam.py: the same bits.
#define STEP(A, B)                                                                                            \
    for (long i = start; i < end; i++) {                                                                      \
        int own = mask[i] != 0, t = steps[i] + own;                                                           \
        NUMBER decayed = g[i] + p[i] * decay, grad = decay == 0 ? g[i] : decayed;                             \
        NUMBER gap = grad - m[i], mean = near ? gap * rest1 + m[i] : grad - gap * beta1;                      \
        NUMBER square = v[i] * beta2 + grad * rest2 * grad;                                                   \
        NUMBER moved = p[i] * shrink - A * mean / (SQRT(square) + B);                                         \
        steps[i] = t;                                                                                         \
        p[i] = own ? moved : p[i];                                                                            \
        m[i] = own ? mean : m[i];                                                                             \
        v[i] = own ? square : v[i];                                                                           \
    }

void NAME(adam)(long n, const unsigned char *restrict mask, NUMBER *restrict p, const NUMBER *restrict g,
                NUMBER *restrict m, NUMBER *restrict v, int *restrict steps, const NUMBER *restrict a,
                const NUMBER *restrict b, NUMBER beta1, NUMBER rest1, NUMBER beta2, NUMBER rest2,
                NUMBER decay, NUMBER shrink, int near)
{
    for (long start = 0; start < n; start += 2048) {
        long end = start + 2048 < n ? start + 2048 : n;
        int low = 0x7fffffff, high = -1; // counts of what is owned: with one mask they are all equal
        for (long i = start; i < end; i++) {
            int none = -(mask[i] == 0), t = steps[i];
            int above = t | none, below = t | (none & 0x7fffffff);
            low = below < low ? below : low;
            high = above > high ? above : high;
        }
        if (low == high) {
            const NUMBER a_t = a[low + 1], b_t = b[low + 1];
            STEP(a_t, b_t)
        } else if (high >= 0) {
            STEP(a[t], b[t])
        }
    }
}
#undef STEP

void NAME(select)(long n, const unsigned char *restrict mask, const NUMBER *restrict x, NUMBER *restrict y)
{
    for (long i = 0; i < n; i++)
        y[i] = mask[i] ? x[i] : 0;
}

// The same for tensors that lie apart, by a mask of one bit a weight: the result is one vector.
void NAME(select_parts)(long parts, const long *sizes, const NUMBER *const *x, const unsigned char *bits,
                        NUMBER *y)
{
    unsigned char mask[PIECE + 16];
    for (long i = 0, first = 0; i < parts; first += sizes[i], i++)
        for (long start = 0; start < sizes[i]; start += PIECE) {
            long n = sizes[i] - start < PIECE ? sizes[i] - start : PIECE, at = first + start;
            unpack(n + at % 8, bits + at / 8, mask);
            NAME(select)(n, mask + at % 8, x[i] + start, y + at);
        }
}
