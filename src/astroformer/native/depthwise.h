// The depthwise 3x3 convolution over maps (B, H, W, C), padded by zeros or circularly, for U vectors of channels.

#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

struct Shape {
    int64_t B, H, W, C, stride;
    bool circular;
    int64_t Ho = (H + stride - 1) / stride, Wo = (W + stride - 1) / stride;
};

// A row's padding: the pixel at its other end or, if not circular, zeros.
template <int U>
void pad(float* row, int64_t W, bool circular) {
    for (int64_t u = 0; u < U; ++u) {
        const Vec left = load(row + (W * U + u) * V), right = load(row + (U + u) * V);
        store(row + u * V, circular ? left : Vec{});
        store(row + ((W + 1) * U + u) * V, circular ? right : Vec{});
    }
}

// The rows of a map (H, W), padded by a pixel. It keeps the three rows that were made last and, if circular, the first
// and the last row of the map. `make(h, to)` writes the pixels of row h, and is called once for each.
template <int U, class Make>
class Rows {
  public:
    // The memory is made of vectors, which are aligned: a load across two cache lines takes twice as long.
    Rows(std::vector<Vec>& memory, int64_t H, int64_t W, bool circular, Make make)
        : H(H), W(W), size((W + 2) * U * V), last(circular ? H - 1 : H), circular(circular), make(make) {
        memory.resize(5 * (W + 2) * U);
        rows = (float*)memory.data();
        above = rows + 4 * size;
        below = circular && H > 1 ? rows + 3 * size : above;
        if (!circular) std::fill(above, above + size, 0.0f);
        made = circular ? -1 : 0;
    }

    // Makes the rows up to h. The row above the first is -1: if circular, the last of the map.
    void reach(int64_t h) {
        for (h = std::min(h, last - 1); made <= h; ++made) {
            float* const to = (*this)[made];
            make(made < 0 ? H - 1 : made, to + U * V);
            pad<U>(to, W, circular);
        }
    }

    float* operator[](int64_t h) const {
        if (h < 0 || h == last) return above;
        if (h == H || (circular && h == 0)) return below;
        return rows + h % 3 * size;
    }

  private:
    const int64_t H, W, size, last;
    const bool circular;
    Make make;
    int64_t made;  // the next row to make
    float *rows, *above, *below;
};

// The weights (9, C) of U vectors of channels, and the weighted sum over a window, whose three rows are given.
template <int U, int S>
struct Taps {
    Vec k[9][U];

    Taps(const float* weight, int64_t C) {
        for (int u = 0; u < U; ++u)
            for (int t = 0; t < 9; ++t) k[t][u] = load(weight + t * C + u * V);
    }

    Vec operator()(const float* const* z, int64_t wo, int u) const {
        Vec sum = {};
        for (int t = 0; t < 3; ++t)
            for (int v = 0; v < 3; ++v) sum += load(z[t] + ((wo * S + v) * U + u) * V) * k[3 * t + v][u];
        return sum;
    }
};

// Calls `output(ho, z)` for every row of the result, where z are the three rows of the input that it depends on. The
// input at a pixel is `input(h, w, u)`, which is called once for each.
template <int U, int S, class Input, class Output>
void for_output_rows(const Shape& s, Input input, Output output) {
    thread_local std::vector<Vec> memory;
    auto make = [&](int64_t h, float* to) {
        for (int64_t w = 0; w < s.W; ++w)
            for (int u = 0; u < U; ++u) store(to + (w * U + u) * V, input(h, w, u));
    };
    Rows<U, decltype(make)> rows(memory, s.H, s.W, s.circular, make);
    for (int64_t ho = 0; ho < s.Ho; ++ho) {
        const float* z[3];
        rows.reach(ho * S + 1);
        for (int t = 0; t < 3; ++t) z[t] = rows[ho * S + t - 1];
        output(ho, z);
    }
}

}  // namespace
