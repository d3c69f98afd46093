// The depthwise 3x3 convolution over maps (B, H, W, C), padded by a pixel of zeros, for U vectors of channels.

#pragma once

#include <vector>

#include "vectors.h"

namespace {

struct Shape {
    int64_t B, H, W, C, stride, Ho, Wo;
};

// The weights (9, C) of U vectors, and their sum over the three rows of a pixel of the result.
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

// Calls `output(ho, z)` for every row of the result, z being the three rows of the input that it is made of. A pixel of
// the input is `input(h, w, u)`, made once: three rows are kept.
template <int U, int S, class Input, class Output>
void for_output_rows(const Shape& s, Input input, Output output) {
    const int64_t row = (s.W + 2) * U * V;
    thread_local std::vector<float> memory;  // the three rows and one of zeros, a pixel of zeros on either side
    memory.assign(4 * row, 0.0f);
    int64_t ready = 0;  // rows made so far
    for (int64_t ho = 0; ho < s.Ho; ++ho) {
        const float* z[3];
        for (int t = 0; t < 3; ++t) {
            const int64_t h = ho * S + t - 1;
            if (h < 0 || h >= s.H) {
                z[t] = memory.data() + 3 * row;
                continue;
            }
            float* const buffer = memory.data() + (h % 3) * row;
            if (h >= ready) {
                for (int64_t w = 0; w < s.W; ++w)
                    for (int u = 0; u < U; ++u) store(buffer + ((w + 1) * U + u) * V, input(h, w, u));
                ready = h + 1;
            }
            z[t] = buffer;
        }
        output(ho, z);
    }
}

}  // namespace
