// Products of matrices that fit the processor's cache, float32, for kernels that make one factor on the way and use the
// result while it is there.

#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t PANEL = 2 * V;  // columns of a block of the result
constexpr int64_t WHOLE = 32;     // columns that rows are padded to, the same for all V
constexpr int BLOCK = 6;          // its rows: 12 vectors of sums, 2 of one factor and 1 of the other are 15 of 16 registers

inline int64_t padded(int64_t columns) { return (columns + WHOLE - 1) / WHOLE * WHOLE; }

// c (R, PANEL) = sum over k of a(r, k) b(k), or that is added to it; a(r, k) lies at a + r row + k step.
template <int R>
void product_block(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, float* c, int64_t c_row,
                   int64_t K, bool add) {
    Vec left[R] = {}, right[R] = {};
    for (int64_t k = 0; k < K; ++k) {
        const Vec b0 = load(b + k * b_row), b1 = load(b + k * b_row + V);
        for (int r = 0; r < R; ++r) {
            const float x = a[r * row + k * step];
            left[r] += x * b0;
            right[r] += x * b1;
        }
    }
    for (int r = 0; r < R; ++r) {
        float* const to = c + r * c_row;
        store(to, add ? load(to) + left[r] : left[r]);
        store(to + V, add ? load(to + V) + right[r] : right[r]);
    }
}

// The same for any number of rows.
inline void product_rows(int64_t rows, const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, float* c,
                         int64_t c_row, int64_t K, bool add) {
    for (; rows >= BLOCK; rows -= BLOCK, a += BLOCK * row, c += BLOCK * c_row)
        product_block<BLOCK>(a, row, step, b, b_row, c, c_row, K, add);
    switch (rows) {
        case 5: return product_block<5>(a, row, step, b, b_row, c, c_row, K, add);
        case 4: return product_block<4>(a, row, step, b, b_row, c, c_row, K, add);
        case 3: return product_block<3>(a, row, step, b, b_row, c, c_row, K, add);
        case 2: return product_block<2>(a, row, step, b, b_row, c, c_row, K, add);
        case 1: return product_block<1>(a, row, step, b, b_row, c, c_row, K, add);
    }
}

// A factor (K, N) in panels of columns, each (K, PANEL), filled up with zeros: what a block reads lies in a row.
class Panels {
  public:
    // Its element k, n lies at from + k row + n column.
    Panels(const float* from, int64_t row, int64_t column, int64_t K, int64_t N)
        : K(K), columns((N + PANEL - 1) / PANEL * PANEL), memory(K * columns / V) {
        float* to = (float*)memory.data();
        for (int64_t n = 0; n < columns; n += PANEL)
            for (int64_t k = 0; k < K; ++k, to += PANEL)
                for (int64_t j = 0; j < std::min(PANEL, N - n); ++j) to[j] = from[k * row + (n + j) * column];
    }

    // c (rows, columns) = a times this factor, a (rows, K); rows of c are padded to whole panels.
    void multiply(const float* a, int64_t a_row, int64_t rows, float* c, int64_t c_row) const {
        const float* panel = (const float*)memory.data();
        for (int64_t n = 0; n < columns; n += PANEL, panel += K * PANEL)
            product_rows(rows, a, a_row, 1, panel, PANEL, c + n, c_row, K, false);
    }

  private:
    const int64_t K, columns;
    std::vector<Vec> memory;
};

// c (M, N) = or += the transpose of a (K, M) times b (K, N); rows of b and c are padded to whole panels.
inline void transposed_product(const float* a, int64_t a_row, int64_t M, const float* b, int64_t b_row, int64_t N,
                               float* c, int64_t c_row, int64_t K, bool add) {
    for (int64_t n = 0; n < N; n += PANEL) product_rows(M, a, 1, a_row, b + n, b_row, c + n, c_row, K, add);
}

}  // namespace
