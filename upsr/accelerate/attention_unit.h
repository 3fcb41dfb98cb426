/* One group and one head, for vectors of VECTOR bytes. Included once for each instruction set (attention.cpp).

   Queries lie along the vectors, two of them at a time; keys, values and dimensions are single numbers. So the softmax has no
   sums across a vector, and no head size is too odd for one. ROWS times two accumulators fill the registers. */

constexpr int W = VECTOR / 4, QUERIES = 2 * W;

typedef float Floats __attribute__((vector_size(VECTOR)));
typedef float Unaligned __attribute__((vector_size(VECTOR), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(VECTOR)));

/* 2^x for x <= 0; less than 2^-126 becomes that. Of the nearest whole number and a polynomial for the rest (2e-9). */
static inline Floats power(Floats x) {
    x = x < -126.0f ? Floats{} - 126.0f : x; /* so that what is no number stays none */
    const Floats shifted = x + 12582912.0f; /* 1.5 * 2^23: the whole number is in the lowest bits now */
    const Floats r = x - (shifted - 12582912.0f);
    Floats p = r * 1.53533621e-4f + 1.33988746e-3f;
    p = p * r + 9.61843736e-3f;
    p = p * r + 5.55033247e-2f;
    p = p * r + 2.40226479e-1f;
    p = p * r + 6.93147203e-1f;
    p = p * r + 1.0f;
    return p * (Floats)(((Ints)shifted - (0x4B400000 - 127)) << 23);
}

/* sums[row] = start[row] + the sum over k of left[row * row_step + k * k_step] * right[k], for ROWS rows of QUERIES. */
static inline __attribute__((always_inline)) void products(Floats *sums, const float *start, int64_t start_step,
                                                           const float *left, int64_t row_step, int64_t k_step,
                                                           const Floats *right, int64_t count) {
    Floats a[ROWS][2] = {};
    if (start) {
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            a[row][0] = *reinterpret_cast<const Unaligned *>(start + row * start_step);
            a[row][1] = *reinterpret_cast<const Unaligned *>(start + row * start_step + W);
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

/* Logits (tokens, QUERIES) become exponentials, the largest of a query 1; returns the reciprocals of their sums in total. */
static inline __attribute__((always_inline)) void softmax(Floats *logits, int64_t tokens, Floats *total) {
    Floats top[4] = {logits[0], logits[1], logits[2], logits[3]};
    for (int64_t j = 4; j < 2 * tokens; j += 4) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            top[v] = top[v] > logits[j + v] ? top[v] : logits[j + v];
    }
    for (int v = 0; v < 2; v++) {
        top[v] = top[v] > top[v + 2] ? top[v] : top[v + 2];
        total[v] = Floats{};
    }
    for (int64_t j = 0; j < tokens; j++) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            logits[2 * j + v] = power(logits[2 * j + v] - top[v]);
            total[v] += logits[2 * j + v];
        }
    }
    for (int v = 0; v < 2; v++)
        total[v] = 1.0f / total[v];
}

static void unit(const Problem &p, int64_t group, int64_t head, float *scratch) {
    const int64_t n = p.tokens, dim = p.dim, channels = p.heads * dim;
    const int64_t *places = p.places + group * n;
    const float *qkv = p.qkv + head * dim, *bias = p.bias ? p.bias + head * n * n : nullptr;
    float *keys = scratch, *values = keys + n * dim, *logits = values + n * dim, *query = logits + n * QUERIES;
    Floats *const attention = reinterpret_cast<Floats *>(logits), *const vectors = reinterpret_cast<Floats *>(query);
    for (int64_t j = 0; j < n; j++) {
        const float *row = qkv + places[j] * 3 * channels;
        memcpy(keys + j * dim, row + channels, dim * sizeof(float));
        memcpy(values + j * dim, row + 2 * channels, dim * sizeof(float));
    }
    for (int64_t first = 0; first < n; first += QUERIES) {
        /* Left to itself, GCC 12 turns both transpositions into shuffles that take three times as long. */
        const float *rows[QUERIES];
        for (int i = 0; i < QUERIES; i++)
            rows[i] = qkv + places[first + i] * 3 * channels;
        for (int64_t d = 0; d < dim; d++) {
#pragma GCC unroll 1
            for (int i = 0; i < QUERIES; i++)
                query[d * QUERIES + i] = rows[i][d] * p.scale;
        }
        for (int64_t j = 0; j < n; j += ROWS)
            products(attention + 2 * j, bias ? bias + j * n + first : nullptr, n, keys + j * dim, dim, 1, vectors, dim);
        Floats total[2];
        softmax(attention, n, total);
        for (int64_t d = 0; d < dim; d += ROWS)
            products(vectors + 2 * d, nullptr, 0, values + d, 1, dim, attention, n);
        for (int64_t d = 0; d < 2 * dim; d++)
            vectors[d] *= total[d % 2];
        for (int i = 0; i < QUERIES; i++) {
            float *row = p.out + places[first + i] * channels + head * dim;
#pragma GCC unroll 1
            for (int64_t d = 0; d < dim; d++)
                row[d] = query[d * QUERIES + i];
        }
    }
}
