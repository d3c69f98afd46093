// Between the two matrix products of an MBConv block in inference: GELU, depthwise 3x3 convolution, GELU and the means
// for the gate in one pass over the wide map. Batch norms are folded into the weights.
//
// Maps are (B, H, W, C) in memory, float32 or bfloat16 (type T); C is a multiple of 16. All arithmetic is float32.

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

struct Shape {
    int64_t B, H, W, C, stride, Ho, Wo;
};

// out = gelu(depthwise(gelu(y + before)) + after), and its means over the pixels, for U vectors of channels.
template <class T, int U, int S>
void middle_block(const T* y, const float* before, const float* weight, const float* after, T* out, float* means,
                  const Shape& s) {
    const int64_t row = (s.W + 2) * U * V;
    thread_local std::vector<float> memory;  // three rows of gelu(y + before) and one of zeros, a pixel wider each side
    memory.assign(4 * row, 0.0f);
    float* const zeros = memory.data() + 3 * row;
    Vec first[U], second[U], k[9][U], total[U] = {};
    for (int u = 0; u < U; ++u) {
        first[u] = load(before + u * V), second[u] = load(after + u * V);
        for (int t = 0; t < 9; ++t) k[t][u] = load(weight + t * s.C + u * V);
    }
    int64_t ready = 0;  // rows made so far
    for (int64_t ho = 0; ho < s.Ho; ++ho) {
        const float* z[3];
        for (int t = 0; t < 3; ++t) {
            const int64_t h = ho * S + t - 1;
            if (h < 0 || h >= s.H) {
                z[t] = zeros;
                continue;
            }
            float* const buffer = memory.data() + (h % 3) * row;
            if (h >= ready) {
                const T* const from = y + h * s.W * s.C;
                for (int64_t w = 0; w < s.W; ++w)
                    for (int u = 0; u < U; ++u)
                        store(buffer + ((w + 1) * U + u) * V, gelu(load(from + w * s.C + u * V) + first[u]));
                ready = h + 1;
            }
            z[t] = buffer;
        }
        Vec sum[U] = {};
        for (int64_t wo = 0; wo < s.Wo; ++wo)
            for (int u = 0; u < U; ++u) {
                Vec x = second[u];
                for (int t = 0; t < 3; ++t)
                    for (int v = 0; v < 3; ++v) x += load(z[t] + ((wo * S + v) * U + u) * V) * k[3 * t + v][u];
                x = gelu(x);
                store(out + (ho * s.Wo + wo) * s.C + u * V, x);
                sum[u] += x;
            }
        for (int u = 0; u < U; ++u) total[u] += sum[u];
    }
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

// out = a x + b for x (rows, C) float32, any C.
template <class T>
void affine(const float* x, const float* a, const float* b, T* out, int64_t rows, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) from_float(a[c] * x[i * C + c] + b[c], out + i * C + c);
}

}  // namespace

#define KERNELS(T, NAME)                                                                                            \
    void middle_##NAME(const T* y, const float* before, const float* weight, const float* after, T* out,            \
                       float* means, int64_t B, int64_t H, int64_t W, int64_t C, int64_t stride) {                  \
        middle(y, before, weight, after, out, means,                                                                \
               Shape{B, H, W, C, stride, (H + stride - 1) / stride, (W + stride - 1) / stride});                    \
    }                                                                                                               \
    void gelu_##NAME(T* x, const float* bias, int64_t rows, int64_t C) { gelu_rows(x, bias, rows, C); }             \
    void scale_##NAME(T* x, const float* gate, int64_t B, int64_t pixels, int64_t C) { scale(x, gate, B, pixels, C); } \
    void affine_##NAME(const float* x, const float* a, const float* b, T* out, int64_t rows, int64_t C) {           \
        affine(x, a, b, out, rows, C);                                                                              \
    }

extern "C" {
KERNELS(float, float32)
KERNELS(BFloat16, bfloat16)
}
