/* Group norm of maps with channels last. Included once for each instruction set (kernels.cpp).

   Sums are of BLOCK pixels each, in float64, and these are added in their order, so it does not matter who computed which. */

constexpr int DOUBLES = W / 2;

typedef double Doubles __attribute__((vector_size(VECTOR)));
typedef float HalfOfFloats __attribute__((vector_size(VECTOR / 2)));
typedef uint32_t HalfOfBits __attribute__((vector_size(VECTOR / 2)));
typedef uint16_t QuarterOfHalves __attribute__((vector_size(VECTOR / 4)));

static inline Doubles exact(const float *from) {
    HalfOfFloats x;
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, Doubles);
}

static inline Doubles exact(const bfloat16 *from) {
    QuarterOfHalves x;
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector((HalfOfFloats)(__builtin_convertvector(x, HalfOfBits) << 16), Doubles);
}

/* Sums of one block's pixels and of their squares, by channel. */
template <typename T> static void add_up(const Norm &p, int64_t block) {
    const int64_t count = p.count(block);
    const T *x = static_cast<const T *>(p.x) + p.start(block);
    double *sums = p.sums + block * 2 * p.channels, *squares = sums + p.channels;
    memset(sums, 0, 2 * p.channels * sizeof(double));
    for (int64_t pixel = 0; pixel < count; pixel++)
        for (int64_t c = 0; c < p.channels; c += DOUBLES) {
            const Doubles value = exact(x + pixel * p.channels + c);
            *reinterpret_cast<Doubles *>(sums + c) += value;
            *reinterpret_cast<Doubles *>(squares + c) += value * value;
        }
}

/* One block's pixels, less the mean, times the factor, plus the offset. */
template <typename T> static void apply(const Norm &p, int64_t block) {
    const int64_t count = p.count(block), start = p.start(block);
    const T *x = static_cast<const T *>(p.x) + start;
    T *out = static_cast<T *>(p.out) + start;
    const float *means = p.coefficients + p.image(block) * 3 * p.channels, *factors = means + p.channels, *offsets = factors + p.channels;
    for (int64_t pixel = 0; pixel < count; pixel++)
        for (int64_t c = 0; c < p.channels; c += W)
            store((loaded(x + pixel * p.channels + c) - loaded(means + c)) * loaded(factors + c) + loaded(offsets + c),
                  out + pixel * p.channels + c);
}
