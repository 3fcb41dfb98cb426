/* A 3 x 3 convolution by F(4 x 4, 3 x 3) of Lavin and Gray (2016), some tiles of 4 x 4 pixels at a time. Included once for each
   instruction set (kernels.cpp).

   Channels lie along the vectors. A thread transforms the windows of its tiles, multiplies them by the weights of PAIR channels of
   the result at a time, and transforms these back at once, so that only the windows must stay in the second-level cache.

   The polynomials are evaluated at 0, A, -A, B, -B and infinity (upsr/accelerate/winograd.py). */

constexpr float A = 0.75f, B = 1.5f;

/* Six values of a window along one side: of the polynomial of degree 5 at each point. */
static inline __attribute__((always_inline)) void evaluated(const Floats *d, Floats *t) {
    const Floats even_b = d[4] - B * B * d[2], odd_b = A * d[3] - A * B * B * d[1];
    const Floats even_a = d[4] - A * A * d[2], odd_a = B * d[3] - B * A * A * d[1];
    t[0] = A * A * B * B * d[0] - (A * A + B * B) * d[2] + d[4];
    t[1] = even_b + odd_b;
    t[2] = even_b - odd_b;
    t[3] = even_a + odd_a;
    t[4] = even_a - odd_a;
    t[5] = A * A * B * B * d[1] - (A * A + B * B) * d[3] + d[5];
}

/* Six products along one side: four pixels. */
static inline __attribute__((always_inline)) void interpolated(const Floats *m, Floats *y) {
    const Floats even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = A * odd_a + B * odd_b;
    y[2] = A * A * even_a + B * B * even_b;
    y[3] = A * A * A * odd_a + B * B * B * odd_b + m[5];
}

/* The 36 numbers of a window go to to[i * step]; pixels[row * 6 + column] point to the channels of a pixel. */
template <typename T>
static void transform_window(const T *const *pixels, int64_t channels, float *to, int64_t step) {
    for (int64_t c = 0; c < channels; c += W) {
        Floats d[6], t[6], half[6][6];
        for (int column = 0; column < 6; column++) {
#pragma GCC unroll 6
            for (int row = 0; row < 6; row++)
                d[row] = loaded(pixels[row * 6 + column] + c);
            evaluated(d, t);
#pragma GCC unroll 6
            for (int row = 0; row < 6; row++)
                half[row][column] = t[row];
        }
        for (int row = 0; row < 6; row++) {
            evaluated(half[row], t);
#pragma GCC unroll 6
            for (int column = 0; column < 6; column++)
                *reinterpret_cast<Floats *>(to + (row * 6 + column) * step + c) = t[column];
        }
    }
}

/* Some vectors of channels of a tile's 16 pixels, from products[i * step]; pixels[row * 4 + column] is null outside the image. */
template <typename T>
static void transform_back(const float *products, int64_t step, const float *bias, int vectors, T *const *pixels) {
    for (int v = 0; v < vectors; v++) {
        const Floats b = loaded(bias + v * W);
        Floats m[6], y[4], half[4][6];
        for (int column = 0; column < 6; column++) {
#pragma GCC unroll 6
            for (int row = 0; row < 6; row++)
                m[row] = *reinterpret_cast<const Floats *>(products + (row * 6 + column) * step + v * W);
            interpolated(m, y);
#pragma GCC unroll 4
            for (int row = 0; row < 4; row++)
                half[row][column] = y[row];
        }
        for (int row = 0; row < 4; row++) {
            interpolated(half[row], y);
#pragma GCC unroll 4
            for (int column = 0; column < 4; column++)
                if (T *pixel = pixels[row * 4 + column])
                    store(y[column] + b, pixel + v * W);
        }
    }
}

template <typename T> static void convolve(const Convolution &p, int64_t first, int64_t tiles, float *scratch) {
    const int64_t rows = (p.height + 3) / 4, columns = (p.width + 3) / 4, filled = (tiles + ROWS - 1) / ROWS * ROWS;
    /* One vector more than the tiles need: at multiples of 4096 bytes all 36 would fall on the same lines of the cache. */
    const int64_t step = filled * p.channels + W, result_step = filled * PAIR + W;
    float *windows = scratch, *results = windows + 36 * step;
    T *nothing = reinterpret_cast<T *>(results + 36 * result_step);
    memset(nothing, 0, p.channels * sizeof(T));
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t place = first + tile, top = place / columns % rows * 4 - 1, left = place % columns * 4 - 1;
        const T *image = static_cast<const T *>(p.x) + place / columns / rows * p.height * p.width * p.channels, *pixels[36];
        for (int i = 0; i < 36; i++) {
            const int64_t y = top + i / 6, x = left + i % 6;
            const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
            pixels[i] = inside ? image + (y * p.width + x) * p.channels : nothing;
        }
        transform_window(pixels, p.channels, windows + tile * p.channels, step);
    }
    for (int64_t tile = tiles; tile < filled; tile++)
        for (int i = 0; i < 36; i++)
            memset(windows + i * step + tile * p.channels, 0, p.channels * sizeof(float));
    const int64_t panels = (p.outputs + PAIR - 1) / PAIR, scale = p.scale;
    for (int64_t panel = 0; panel < scale * scale * panels; panel++) {
        const int64_t phase = panel / panels, output = panel % panels * PAIR;
        const int vectors = p.outputs - output < PAIR ? 1 : 2;
        for (int i = 0; i < 36; i++) {
            const float *weights = p.weight + (panel * 36 + i) * p.channels * PAIR;
            for (int64_t tile = 0; tile < filled; tile += ROWS)
                products(reinterpret_cast<Floats *>(results + i * result_step + tile * PAIR), nullptr, 0,
                         windows + i * step + tile * p.channels, p.channels, 1, reinterpret_cast<const Floats *>(weights),
                         p.channels);
        }
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t place = first + tile, top = place / columns % rows * 4, left = place % columns * 4;
            const int64_t pixels_of_image = scale * scale * p.height * p.width;
            T *image = static_cast<T *>(p.out) + place / columns / rows * pixels_of_image * p.outputs + output, *pixels[16];
            for (int i = 0; i < 16; i++) {
                const int64_t y = top + i / 4, x = left + i % 4;
                const int64_t pixel = (y * scale + phase / scale) * p.width * scale + x * scale + phase % scale;
                pixels[i] = y < p.height && x < p.width ? image + pixel * p.outputs : nullptr;
            }
            transform_back(results + tile * PAIR, result_step, p.bias + output, vectors, pixels);
        }
    }
}
