/* Vectors of VECTOR bytes, and products of small matrices. Included once for each instruction set (kernels.cpp).

   PAIR numbers, two vectors, lie along what is many (queries, channels of the result); ROWS times two accumulators fill the
   registers. */

constexpr int W = VECTOR / 4, PAIR = 2 * W;

typedef float Floats __attribute__((vector_size(VECTOR)));
typedef float Unaligned __attribute__((vector_size(VECTOR), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(VECTOR)));
typedef uint32_t Bits __attribute__((vector_size(VECTOR)));
typedef uint16_t Halves __attribute__((vector_size(VECTOR / 2)));

/* W numbers from any address, and W numbers to any. */
static inline Floats loaded(const float *from) { return *reinterpret_cast<const Unaligned *>(from); }

static inline Floats loaded(const bfloat16 *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

static inline void store(Floats x, float *to) { *reinterpret_cast<Unaligned *>(to) = x; }

static inline void store(Floats x, bfloat16 *to) {
    const Bits bits = (Bits)x;
    const Halves halves = __builtin_convertvector((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, Halves);
    memcpy(to, &halves, sizeof halves);
}

/* sums[row] = start[row] + the sum over k of left[row * row_step + k * k_step] * right[k], for ROWS rows of PAIR. */
static inline __attribute__((always_inline)) void products(Floats *sums, const float *start, int64_t start_step,
                                                           const float *left, int64_t row_step, int64_t k_step,
                                                           const Floats *right, int64_t count) {
    Floats a[ROWS][2] = {};
    if (start) {
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            a[row][0] = loaded(start + row * start_step);
            a[row][1] = loaded(start + row * start_step + W);
        }
    }
    for (int64_t k = 0; k < count; k++) {
        const Floats b0 = right[2 * k], b1 = right[2 * k + 1];
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            const float l = left[row * row_step + k * k_step];
            a[row][0] += l * b0;
            a[row][1] += l * b1;
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
        sums[2 * row] = a[row][0];
        sums[2 * row + 1] = a[row][1];
    }
}

