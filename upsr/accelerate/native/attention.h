/* Attention of one group and one head. Included once for each instruction set (kernels.cpp).

   Queries lie along the vectors; keys, values and dimensions are single numbers. So the softmax has no sums across a vector, and
   no head size is too odd for one. */

constexpr int QUERIES = PAIR;

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

template <typename T> static void attend(const Attention &p, int64_t group, int64_t head, float *scratch) {
    const int64_t n = p.tokens, dim = p.dim, channels = p.heads * dim;
    const int64_t *places = p.places + group * n;
    const T *qkv = static_cast<const T *>(p.qkv) + head * dim;
    const float *bias = p.bias ? p.bias + head * n * n : nullptr;
    float *keys = scratch, *values = keys + n * dim, *logits = values + n * dim, *query = logits + n * QUERIES;
    Floats *const attention = reinterpret_cast<Floats *>(logits), *const vectors = reinterpret_cast<Floats *>(query);
    for (int64_t j = 0; j < n; j++) {
        const T *row = qkv + places[j] * 3 * channels;
        for (int64_t d = 0; d < dim; d++) {
            keys[j * dim + d] = widened(row[channels + d]);
            values[j * dim + d] = widened(row[2 * channels + d]);
        }
    }
    for (int64_t first = 0; first < n; first += QUERIES) {
        /* Left to itself, GCC 12 turns both transpositions into shuffles that take three times as long. */
        const T *rows[QUERIES];
        for (int i = 0; i < QUERIES; i++)
            rows[i] = qkv + places[first + i] * 3 * channels;
        for (int64_t d = 0; d < dim; d++) {
#pragma GCC unroll 1
            for (int i = 0; i < QUERIES; i++)
                query[d * QUERIES + i] = widened(rows[i][d]) * p.scale;
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
            T *row = static_cast<T *>(p.out) + places[first + i] * channels + head * dim;
#pragma GCC unroll 1
            for (int64_t d = 0; d < dim; d++)
                put(query[d * QUERIES + i], row + d);
        }
    }
}
