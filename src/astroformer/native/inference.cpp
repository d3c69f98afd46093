// What lies between the two matrix products of an MBConv block in inference: GELU, depthwise 3x3 convolution, GELU and
// the means for the gate, in one pass over the wide map. Batch norms are folded into the weights.
//
// Maps are (B, H, W, C) in memory, float32 or bfloat16 (type T); C is a multiple of 16. All arithmetic is float32.

#include "depthwise.h"

namespace {

// out = gelu(depthwise(gelu(y + before)) + after), and its means over the pixels, for U vectors of channels.
template <class T, int U, int S>
void middle_block(const T* y, const float* before, const float* weight, const float* after, T* out, float* means,
                  const Shape& s) {
    Vec first[U], second[U], total[U] = {};
    for (int u = 0; u < U; ++u) first[u] = load(before + u * V), second[u] = load(after + u * V);
    const Taps<U, S> taps(weight, s.C);
    for_output_rows<U, S>(
        s, [&](int64_t h, int64_t w, int u) { return gelu(load(y + (h * s.W + w) * s.C + u * V) + first[u]); },
        [&](int64_t ho, const float* const* z) {
            Vec sum[U] = {};
            for (int64_t wo = 0; wo < s.Wo; ++wo)
                for (int u = 0; u < U; ++u) {
                    const Vec x = gelu(taps(z, wo, u) + second[u]);
                    store(out + (ho * s.Wo + wo) * s.C + u * V, x);
                    sum[u] += x;
                }
            for (int u = 0; u < U; ++u) total[u] += sum[u];
        });
    for (int u = 0; u < U; ++u) store(means + u * V, total[u] / float(s.Ho * s.Wo));
}

template <class T>
void middle(const T* y, const float* before, const float* weight, const float* after, T* out, float* means, Shape s) {
    for_blocks(s.B, s.C, [=](int64_t i, int64_t c, int vectors) {
        auto run = vectors == 2 ? (s.stride == 2 ? middle_block<T, 2, 2> : middle_block<T, 2, 1>)
                                : (s.stride == 2 ? middle_block<T, 1, 2> : middle_block<T, 1, 1>);
        run(y + i * s.H * s.W * s.C + c, before + c, weight + c, after + c, out + i * s.Ho * s.Wo * s.C + c,
            means + i * s.C + c, s);
    });
}

// In place: x = gelu(x + bias) for x (rows, C).
template <class T>
void gelu_rows(T* x, const float* bias, int64_t rows, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t c = 0; c < C; c += V) store(x + i * C + c, gelu(load(x + i * C + c) + load(bias + c)));
}

// In place: x (B, pixels, C) times gate (B, C).
template <class T>
void scale(T* x, const float* gate, int64_t B, int64_t pixels, int64_t C) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; ++b)
        for (int64_t i = 0; i < pixels; ++i) {
            T* const at = x + (b * pixels + i) * C;
            for (int64_t c = 0; c < C; c += V) store(at + c, load(at + c) * load(gate + b * C + c));
        }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                            \
    void middle_##NAME(const T* y, const float* before, const float* weight, const float* after, T* out,            \
                       float* means, int64_t B, int64_t H, int64_t W, int64_t C, int64_t stride,                    \
                       int64_t circular) {                                                                          \
        middle(y, before, weight, after, out, means, Shape{B, H, W, C, stride, circular != 0});                     \
    }                                                                                                               \
    void gelu_##NAME(T* x, const float* bias, int64_t rows, int64_t C) { gelu_rows(x, bias, rows, C); }             \
    void scale_##NAME(T* x, const float* gate, int64_t B, int64_t pixels, int64_t C) { scale(x, gate, B, pixels, C); }

extern "C" {
KERNELS(float, float32)
KERNELS(BFloat16, bfloat16)
}
