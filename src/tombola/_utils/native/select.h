// Selecting by the bits of numbers: what pruning/radix.py calls. WORD is the unsigned integer of a number's size.
#define SIGN ((WORD)1 << (8 * sizeof(WORD) - 1))
#define KEY(u) ((u) == SIGN ? SIGN : (u) & SIGN ? ~(u) : (u) | SIGN) // in the order of the numbers; -0 is 0
#define TOP (8 * (int)sizeof(WORD) - 16)

// Collects the eligible keys from `low` to `high`, counts those below, and says in nan whether there is a NaN
// among the eligible: a number whose magnitude is above that of infinity. Returns how many it collected, or
// -1 where there may be more than there is room for.
long NAME(between)(long n, const WORD *restrict x, const unsigned char *restrict eligible, WORD infinity,
                   WORD low, WORD high, WORD *restrict out, long room, long *restrict under,
                   long *restrict nan)
{
    long found = 0;
    WORD worst = 0;
    for (long start = 0; start < n; start += BLOCK) {
        const long size = start + BLOCK < n ? BLOCK : n - start;
        const unsigned char *own = eligible ? eligible + start : ones;
        const WORD *u = x + start;
        unsigned char match[BLOCK + 8];
        WORD less = 0;
        if (found + BLOCK > room)
            return -1;
        memset(match + size, 0, 8);
        for (long i = 0; i < size; i++) {
            const WORD key = KEY(u[i]), magnitude = u[i] & ~SIGN, mine = eligible ? -(WORD)own[i] : ~(WORD)0;
            match[i] = key - low <= high - low && mine;
            less += mine & (key < low);
            worst = (magnitude & mine) > worst ? magnitude & mine : worst;
        }
        for (long from = 0; from < size; from += 8) {
            uint64_t any; // eight of them, each 0 or 1, the first one lowest
            memcpy(&any, match + from, 8);
            for (; any; any &= any - 1)
                out[found++] = KEY(u[from + __builtin_ctzll(any) / 8]);
        }
        *under += less;
    }
    *nan |= worst > infinity;
    return found;
}

// Counts the eligible keys by their 16 highest bits, in four tables: an increment need not wait for the one
// before. Returns whether there is a NaN among them.
int NAME(top)(long n, const WORD *restrict x, const unsigned char *restrict eligible, WORD infinity,
              unsigned *restrict bins)
{
    unsigned char nan = 0;
    for (long start = 0; start < n; start += BLOCK) {
        const long size = start + BLOCK < n ? BLOCK : n - start;
        const unsigned char *own = eligible ? eligible + start : ones;
        const WORD *u = x + start;
        unsigned short high[BLOCK];
        for (long i = 0; i < size; i++)
            high[i] = KEY(u[i]) >> TOP;
        for (long i = 0; i < size; i++)
            nan |= own[i] & ((u[i] & ~SIGN) > infinity);
        for (long i = 0; i < size; i++)
            bins[(i & 3) << 16 | high[i]] += own[i];
    }
    return nan;
}

// Counts the eligible keys that begin with `prefix` by the 16 bits after it, which end `shift` from below.
void NAME(below)(long n, const WORD *restrict x, const unsigned char *restrict eligible, int shift,
                 WORD prefix, unsigned *restrict bins)
{
    for (long start = 0; start < n; start += BLOCK) {
        const long size = start + BLOCK < n ? BLOCK : n - start;
        const unsigned char *own = eligible ? eligible + start : ones;
        const WORD *u = x + start;
        unsigned char match[BLOCK] = {0};
        unsigned short low[BLOCK];
        long found = 0;
        for (long i = 0; i < size; i++)
            match[i] = own[i] & (KEY(u[i]) >> 16 >> shift == prefix);
        for (long from = 0; from < size; from += 8) {
            uint64_t any;
            memcpy(&any, match + from, 8);
            for (long i = from; any && i < from + 8; i++) { // without a branch per key
                low[found] = KEY(u[i < size ? i : 0]) >> shift;
                found += match[i];
            }
        }
        for (long i = 0; i < found; i++)
            bins[(i & 3) << 16 | low[i]]++;
    }
}

// 1 for the eligible keys from the threshold up, without the first `skip` of those that are equal to it.
void NAME(mark)(long n, const WORD *restrict x, const unsigned char *restrict eligible, WORD threshold,
                long skip, unsigned char *restrict out)
{
    for (long start = 0; start < n; start += BLOCK) {
        const long size = start + BLOCK < n ? BLOCK : n - start;
        const unsigned char *own = eligible ? eligible + start : ones;
        const WORD *u = x + start;
        unsigned char *to = out + start, equal[BLOCK];
        long ties = 0;
        for (long i = 0; i < size; i++)
            to[i] = own[i] & (KEY(u[i]) >= threshold);
        if (!skip)
            continue;
        for (long i = 0; i < size; i++)
            ties += equal[i] = own[i] & (KEY(u[i]) == threshold);
        if (ties <= skip)
            skip -= ties;
        else
            for (long i = 0, left = skip; i < size; i++) {
                equal[i] &= left > 0;
                left -= equal[i], skip = 0;
            }
        for (long i = 0; i < size; i++)
            to[i] &= !equal[i];
    }
}
#undef SIGN
#undef KEY
#undef TOP
