/* Standard normal numbers by counters, as upsr/philox.py says. Included once for each instruction set (kernels.cpp).

   A vector has a counter in each lane. Numbers are those of the C library's functions in float64 but for their last bits, which
   rounding to float32 takes away. */

typedef uint64_t Longs __attribute__((vector_size(VECTOR)));
typedef int64_t Wholes __attribute__((vector_size(VECTOR)));

/* Numbers below 2^32 in float64, by way of the lowest bits of 2^52. */
static inline Doubles as_doubles(Longs x) { return (Doubles)(x | 0x4330000000000000) - 0x1p52; }

/* The natural logarithm of a number from 2^-32 to 1. */
static inline Doubles logarithm(Doubles x) {
    /* x = 2^e * m with m between sqrt(1/2) and sqrt(2): log m = 2 artanh((m - 1) / (m + 1)) */
    const Wholes e = ((Wholes)x - 0x3FE6A09E667F3BCD) >> 52;
    const Doubles m = (Doubles)((Wholes)x - (e << 52)) - 1.0, s = m / (m + 2.0), z = s * s;
    Doubles sum = Doubles{} + 1.0 / 23;
#pragma GCC unroll 10
    for (int k = 21; k >= 3; k -= 2)
        sum = sum * z + 1.0 / k;
    return (as_doubles((Longs)(e + 64)) - 64.0) * LN_2 + (2.0 * s + 2.0 * s * z * sum);
}

/* Cosine and sine of an angle of at most one turn. */
static inline void cosine_and_sine(Doubles angle, Doubles *cosine, Doubles *sine) {
    const Doubles shifted = angle * (2 / PI) + 0x1.8p52, quarters = shifted - 0x1.8p52;
    const Doubles y = (angle - quarters * PI_2) - quarters * REST_OF_PI_2, z = y * y;
    Doubles s = Doubles{} + 1.0, c = s;
#pragma GCC unroll 9
    for (int k = 18; k >= 2; k -= 2) {
        s = 1.0 - s * z * (1.0 / (k * (k + 1)));
        c = 1.0 - c * z * (1.0 / (k * (k - 1)));
    }
    s *= y;
    const Wholes quarter = (Wholes)shifted & 3, odd = (quarter & 1) == 1;
    const Doubles over = odd ? s : c, along = odd ? c : s;
    *cosine = ((quarter + 1) & 2) == 2 ? -over : over;
    *sine = quarter >= 2 ? -along : along;
}

/* A row of a field: columns `first` to `last` of it. */
static void draw_row(const Field &p, int64_t image, int64_t channel, int64_t row, float *scratch) {
    float *out = p.out + ((image * p.channels + channel) * p.rows + row) * (p.last - p.first);
    for (int64_t start = p.first / 4; 4 * start < p.last; start += DOUBLES) {
        Longs a, b = Longs{} + uint64_t(p.top + row), c = Longs{} + uint64_t(channel), d = {};
        for (int lane = 0; lane < DOUBLES; lane++)
            a[lane] = uint64_t(start + lane);
        uint32_t key_0 = uint32_t(p.keys[image]), key_1 = uint32_t(uint64_t(p.keys[image]) >> 32);
        for (int round = 0; round < 10; round++) {
            const Longs first = a * 0xD2511F53, second = c * 0xCD9E8D57;
            a = (second >> 32) ^ b ^ uint64_t(key_0);
            b = second & 0xFFFFFFFF;
            c = (first >> 32) ^ d ^ uint64_t(key_1);
            d = first & 0xFFFFFFFF;
            key_0 += 0x9E3779B9;
            key_1 += 0xBB67AE85;
        }
        const Longs words[2][2] = {{a, b}, {c, d}};
        for (int pair = 0; pair < 2; pair++) {
            Doubles length = -2.0 * logarithm((as_doubles(words[pair][0]) + 1.0) * 0x1p-32), cosine, sine;
            cosine_and_sine(as_doubles(words[pair][1]) * (2 * PI * 0x1p-32), &cosine, &sine);
            for (int lane = 0; lane < DOUBLES; lane++) {
                const double root = std::sqrt(length[lane]);
                scratch[4 * lane + 2 * pair] = float(root * cosine[lane]);
                scratch[4 * lane + 2 * pair + 1] = float(root * sine[lane]);
            }
        }
        const int64_t from = 4 * start < p.first ? p.first - 4 * start : 0;
        const int64_t to = p.last - 4 * start < 4 * DOUBLES ? p.last - 4 * start : 4 * DOUBLES;
        memcpy(out + (4 * start + from - p.first), scratch + from, sizeof(float) * size_t(to - from));
    }
}
