// The training step of an MBConv block without its matrix products: batch-norm statistics, GELU, the depthwise 3x3
// convolution and the squeeze-and-excitation sums, each pass over the wide maps fused with its neighbours.
//
// Maps are (B, H, W, C) in memory. Wide ones (after the expansion) are of type T, float32 or bfloat16; C is then a
// multiple of 16. All arithmetic is float32. Sums over pixels are kept per image and channel, (B, k, C), and added up
// by the caller in a fixed order: the same bits for any number of threads.
//
// h = a y + b is a batch-normalized map (norm.h), z = gelu(h).

#include <algorithm>
#include <cmath>
#include <vector>

#include "depthwise.h"
#include "norm.h"

namespace {

constexpr int64_t RUN = 64;  // pixels of a partial sum: a long float32 sum loses digits

// --- statistics -------------------------------------------------------------------------------------------------

// sums (B, 2, C): of x - shift and of its square, over the pixels of each image.
template <class T, int U>
void moments_block(const T* x, const float* shift, float* sums, int64_t pixels, int64_t C) {
    Vec s[U], first[U] = {}, second[U] = {};
    for (int u = 0; u < U; ++u) s[u] = load(shift + u * V);
    for (int64_t start = 0; start < pixels; start += RUN) {
        Vec one[U] = {}, two[U] = {};
        const int64_t end = std::min(pixels, start + RUN);
        for (int64_t i = start; i < end; ++i)
            for (int u = 0; u < U; ++u) {
                const Vec d = load(x + i * C + u * V) - s[u];
                one[u] += d;
                two[u] += d * d;
            }
        for (int u = 0; u < U; ++u) first[u] += one[u], second[u] += two[u];
    }
    for (int u = 0; u < U; ++u) {
        store(sums + u * V, first[u]);
        store(sums + C + u * V, second[u]);
    }
}

template <class T>
void moments(const T* x, const float* shift, float* sums, int64_t B, int64_t pixels, int64_t C) {
    for_blocks(B, C, [=](int64_t b, int64_t c, int vectors) {
        const T* p = x + b * pixels * C + c;
        float* s = sums + b * 2 * C + c;
        vectors == 2 ? moments_block<T, 2>(p, shift + c, s, pixels, C) : moments_block<T, 1>(p, shift + c, s, pixels, C);
    });
}

// A batch norm on this batch, (4, C): mean, rstd, a = gamma rstd and b = beta - mean a. Its running statistics are
// updated. The sums are those of y - running mean and of its square, so that the variance is not a small difference of
// large numbers.
void norm(const float* sums, const float* gamma, const float* beta, float* running_mean, float* running_var,
          int64_t* batches, float* out, int64_t units, int64_t pixels, int64_t C, float eps, float momentum) {
    if (batches) ++*batches;
    const double count = double(pixels), unbiased = count / std::max(count - 1.0, 1.0);
    for (int64_t c = 0; c < C; ++c) {
        double first = 0, second = 0;
        for (int64_t b = 0; b < units; ++b) first += sums[b * 2 * C + c], second += sums[(b * 2 + 1) * C + c];
        const double offset = first / count;
        // Written so that NaN stays NaN: a run that diverged must be noticed.
        double variance = second / count - offset * offset;
        variance = variance < 0 ? 0 : variance;
        const float mean = float(running_mean[c] + offset), rstd = float(1.0 / std::sqrt(variance + eps));
        running_mean[c] += momentum * (mean - running_mean[c]);
        running_var[c] += momentum * (float(variance * unbiased) - running_var[c]);
        out[c] = mean, out[C + c] = rstd;
        out[2 * C + c] = gamma[c] * rstd, out[3 * C + c] = beta[c] - mean * out[2 * C + c];
    }
}

// Its backward pass (Ioffe & Szegedy, arXiv 1502.03167, section 3), (4, C): the gradients of gamma and beta, p and q.
// Of the sums (units, kinds, C), kind `first` is that of dh and the next that of dh (y - mean).
void norm_backward(const float* rows, const float* sums, float* out, int64_t units, int64_t kinds, int64_t first,
                   int64_t pixels, int64_t C) {
    const Norm norm(rows, C);
    const float count = float(pixels);
    for (int64_t c = 0; c < C; ++c) {
        float beta = 0, gamma = 0;
        for (int64_t b = 0; b < units; ++b)
            beta += sums[(b * kinds + first) * C + c], gamma += sums[(b * kinds + first + 1) * C + c];
        gamma *= norm.rstd[c];
        const float q = norm.a[c] * norm.rstd[c] * gamma / count;
        out[c] = gamma, out[C + c] = beta;
        out[2 * C + c] = norm.a[c] * beta / count - q * norm.mean[c], out[3 * C + c] = q;
    }
}

// --- depthwise convolution, forward -----------------------------------------------------------------------------

template <class T, int U, int S>
void depthwise_block(const T* y, const float* a_C, const float* b_C, const float* weight, const float* shift, T* out,
                     float* sums, const Shape& s) {
    Vec a[U], b[U], shifts[U], first[U] = {}, second[U] = {};
    for (int u = 0; u < U; ++u) a[u] = load(a_C + u * V), b[u] = load(b_C + u * V), shifts[u] = load(shift + u * V);
    const Taps<U, S> taps(weight, s.C);
    for_output_rows<U, S>(
        s, [&](int64_t h, int64_t w, int u) { return gelu(a[u] * load(y + (h * s.W + w) * s.C + u * V) + b[u]); },
        [&](int64_t ho, const float* const* z) {
            Vec one[U] = {}, two[U] = {};
            for (int64_t wo = 0; wo < s.Wo; ++wo)
                for (int u = 0; u < U; ++u) {
                    const Vec sum = taps(z, wo, u), d = sum - shifts[u];
                    store(out + (ho * s.Wo + wo) * s.C + u * V, sum);
                    one[u] += d;
                    two[u] += d * d;
                }
            for (int u = 0; u < U; ++u) first[u] += one[u], second[u] += two[u];
        });
    for (int u = 0; u < U; ++u) {
        store(sums + u * V, first[u]);
        store(sums + s.C + u * V, second[u]);
    }
}

template <class T>
void depthwise(const T* y, Norm norm, const float* weight, const float* shift, T* out, float* sums, Shape s) {
    for_blocks(s.B, s.C, [=](int64_t i, int64_t c, int vectors) {
        const T* p = y + i * s.H * s.W * s.C + c;
        T* q = out + i * s.Ho * s.Wo * s.C + c;
        float* m = sums + i * 2 * s.C + c;
        auto run = vectors == 2 ? (s.stride == 2 ? depthwise_block<T, 2, 2> : depthwise_block<T, 2, 1>)
                                : (s.stride == 2 ? depthwise_block<T, 1, 2> : depthwise_block<T, 1, 1>);
        run(p, norm.a + c, norm.b + c, weight + c, shift + c, q, m, s);
    });
}

// --- the gate ---------------------------------------------------------------------------------------------------

// means (B, C) of gelu(a y + b) over the pixels.
template <class T, int U>
void pooled_block(const T* y, const float* a_C, const float* b_C, float* means, int64_t pixels, int64_t C) {
    Vec a[U], b[U], total[U] = {};
    for (int u = 0; u < U; ++u) a[u] = load(a_C + u * V), b[u] = load(b_C + u * V);
    for (int64_t start = 0; start < pixels; start += RUN) {
        Vec sum[U] = {};
        const int64_t end = std::min(pixels, start + RUN);
        for (int64_t i = start; i < end; ++i)
            for (int u = 0; u < U; ++u) sum[u] += gelu(a[u] * load(y + i * C + u * V) + b[u]);
        for (int u = 0; u < U; ++u) total[u] += sum[u];
    }
    for (int u = 0; u < U; ++u) store(means + u * V, total[u] / float(pixels));
}

template <class T>
void pooled(const T* y, Norm norm, float* means, int64_t B, int64_t pixels, int64_t C) {
    for_blocks(B, C, [=](int64_t i, int64_t c, int vectors) {
        auto run = vectors == 2 ? pooled_block<T, 2> : pooled_block<T, 1>;
        run(y + i * pixels * C + c, norm.a + c, norm.b + c, means + i * C + c, pixels, C);
    });
}

// out = gelu(a y + b) * gate, with gate (B, C).
template <class T>
void gated(const T* y, Norm norm, const float* gate, T* out, int64_t B, int64_t pixels, int64_t C) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t i = 0; i < B; ++i)
        for (int64_t n = 0; n < pixels; ++n) {
            const int64_t at = (i * pixels + n) * C;
            for (int64_t c = 0; c < C; c += V)
                store(out + at + c,
                      gelu(load(norm.a + c) * load(y + at + c) + load(norm.b + c)) * load(gate + i * C + c));
        }
}

// --- backward ---------------------------------------------------------------------------------------------------

// sums (B, 5, C) over the pixels of d gelu(h), d g', g', d g' n and g' n, where d is the gradient of gelu(h) * gate,
// g' = gelu'(h) and n = y - mean. The gradients of the gate and of the batch norm follow from them for any gate.
template <class T, int U>
void gradient_sums_block(const T* d, const T* y, const float* a_C, const float* b_C, const float* mean_C, float* sums,
                         int64_t pixels, int64_t C) {
    Vec a[U], b[U], mean[U], total[5][U] = {};
    for (int u = 0; u < U; ++u) a[u] = load(a_C + u * V), b[u] = load(b_C + u * V), mean[u] = load(mean_C + u * V);
    for (int64_t start = 0; start < pixels; start += RUN) {
        Vec sum[5][U] = {};
        const int64_t end = std::min(pixels, start + RUN);
        for (int64_t i = start; i < end; ++i)
            for (int u = 0; u < U; ++u) {
                const Vec yi = load(y + i * C + u * V), di = load(d + i * C + u * V);
                const Vec n = yi - mean[u];
                Vec value, slope;
                gelu_both(a[u] * yi + b[u], value, slope);
                sum[0][u] += di * value;
                sum[1][u] += di * slope;
                sum[2][u] += slope;
                sum[3][u] += di * slope * n;
                sum[4][u] += slope * n;
            }
        for (int k = 0; k < 5; ++k)
            for (int u = 0; u < U; ++u) total[k][u] += sum[k][u];
    }
    for (int k = 0; k < 5; ++k)
        for (int u = 0; u < U; ++u) store(sums + k * C + u * V, total[k][u]);
}

template <class T>
void gradient_sums(const T* d, const T* y, Norm norm, float* sums, int64_t B, int64_t pixels, int64_t C) {
    for_blocks(B, C, [=](int64_t i, int64_t c, int vectors) {
        const int64_t at = i * pixels * C + c;
        auto run = vectors == 2 ? gradient_sums_block<T, 2> : gradient_sums_block<T, 1>;
        run(d + at, y + at, norm.a + c, norm.b + c, norm.mean + c, sums + i * 5 * C + c, pixels, C);
    });
}

// Arguments of the backward pass of the depthwise convolution.
template <class T>
struct Gradient {
    const T* d;   // (B, Ho, Wo, C), gradient of gelu(h2) * gate; without a gate, of h2
    const T* y2;  // (B, Ho, Wo, C), output of the convolution
    const T* y1;  // (B, H, W, C), before batch norm and GELU; gelu(h1) is the input of the convolution
    Norm norm2, norm1;
    const float *gate, *spread;  // (B, C): the gradient of gelu(h2) is d gate + spread; null without a gate
    NormBackward back2;
    const float* weight;  // (9, C)
    T* out;               // (B, H, W, C): gradient of h1
    float* sums;          // (B, 11, C): gradient of the 9 weights, of h1, of h1 times (y1 - mean1)
};

template <class T, int U, int S>
void depthwise_backward_block(const Gradient<T>& g, const Shape& s, int64_t image, int64_t c) {
    const int64_t full = (s.W + 2) * U * V;
    thread_local std::vector<Vec> memory, row_memory;
    memory.resize(3 * (s.W + 2) * U);
    float* const z = (float*)memory.data();  // a row of gelu(h1), padded
    float* const slope = z + full;           // of gelu'(h1)
    float* const dz = slope + full;          // of the gradient of gelu(h1)
    const T* const d0 = g.d + image * s.Ho * s.Wo * s.C + c;
    const T* const y20 = g.y2 + image * s.Ho * s.Wo * s.C + c;
    const T* const y10 = g.y1 + image * s.H * s.W * s.C + c;
    T* const out0 = g.out + image * s.H * s.W * s.C + c;
    Vec kernel[9][U], dk[9][U] = {}, first[U] = {}, second[U] = {};
    for (int u = 0; u < U; ++u)
        for (int t = 0; t < 9; ++t) kernel[t][u] = load(g.weight + t * s.C + c + u * V);

    auto make_row = [&](int64_t ho, float* to) {
        for (int u = 0; u < U; ++u) {
            const int64_t k = c + u * V;
            const Vec a = load(g.norm2.a + k), b = load(g.norm2.b + k);
            const Vec p = load(g.back2.p + k), q = load(g.back2.q + k);
            const bool gated = g.gate != nullptr;
            const Vec gate = gated ? load(g.gate + image * s.C + k) : Vec{};
            const Vec spread = gated ? load(g.spread + image * s.C + k) : Vec{};
            for (int64_t wo = 0; wo < s.Wo; ++wo) {
                const int64_t at = (ho * s.Wo + wo) * s.C + u * V;
                const Vec y = load(y20 + at);
                Vec value, gradient = load(d0 + at);
                if (gated) {
                    const Vec d = gradient;
                    gelu_both(a * y + b, value, gradient);
                    gradient *= d * gate + spread;
                }
                store(to + (wo * U + u) * V, a * gradient - p - q * y);
            }
        }
    };

    Rows<U, decltype(make_row)> rows(row_memory, s.Ho, s.Wo, s.circular, make_row);  // of the gradient of y2
    for (int64_t h = 0; h < s.H; ++h) {
        for (int u = 0; u < U; ++u) {
            const Vec a = load(g.norm1.a + c + u * V), b = load(g.norm1.b + c + u * V);
            for (int64_t w = 0; w < s.W; ++w) {
                Vec value, gradient;
                gelu_both(a * load(y10 + (h * s.W + w) * s.C + u * V) + b, value, gradient);
                store(z + ((w + 1) * U + u) * V, value);
                store(slope + ((w + 1) * U + u) * V, gradient);
            }
        }
        pad<U>(z, s.W, s.circular);
        rows.reach((h + 1) / S);
        std::fill(dz, dz + full, 0.0f);
        for (int t = 0; t < 3; ++t) {
            if ((h + 1 - t) % S != 0) continue;
            const int64_t ho = (h + 1 - t) / S;
            if (!s.circular && (ho < 0 || ho >= s.Ho)) continue;
            const float* const from = rows[ho];
            for (int u = 0; u < U; ++u) {
                const Vec k0 = kernel[3 * t][u], k1 = kernel[3 * t + 1][u], k2 = kernel[3 * t + 2][u];
                Vec g0 = {}, g1 = {}, g2 = {};
                if (S == 1) {
                    Vec right, here = load(from + u * V), next = load(from + (U + u) * V);
                    for (int64_t w = 0; w < s.W; ++w) {  // left, here, right: the gradient of y2 around w
                        const Vec left = here;
                        here = next;
                        right = next = load(from + ((w + 2) * U + u) * V);
                        float* const at = dz + ((w + 1) * U + u) * V;
                        const Vec zw = load(z + ((w + 1) * U + u) * V);
                        store(at, load(at) + right * k0 + here * k1 + left * k2);
                        g0 += right * zw;
                        g1 += here * zw;
                        g2 += left * zw;
                    }
                } else {
                    for (int64_t wo = 0; wo < s.Wo; ++wo) {  // its taps lie at 2 wo, 2 wo + 1, 2 wo + 2 of the padded row
                        const Vec d = load(from + ((wo + 1) * U + u) * V);
                        float* const at = dz + (2 * wo * U + u) * V;
                        const float* const zw = z + (2 * wo * U + u) * V;
                        store(at, load(at) + d * k0);
                        store(at + U * V, load(at + U * V) + d * k1);
                        g0 += d * load(zw);
                        g1 += d * load(zw + U * V);
                        store(at + 2 * U * V, load(at + 2 * U * V) + d * k2);
                        g2 += d * load(zw + 2 * U * V);
                    }
                    // The first tap of wo = 0 is the last pixel. It is added last, as at all pixels under two taps.
                    if (s.circular) {
                        float* const at = dz + (s.W * U + u) * V;
                        store(at, load(at) + load(from + (U + u) * V) * k0);
                    }
                }
                dk[3 * t][u] += g0, dk[3 * t + 1][u] += g1, dk[3 * t + 2][u] += g2;
            }
        }
        for (int u = 0; u < U; ++u) {
            const Vec mean = load(g.norm1.mean + c + u * V);
            Vec one = {}, two = {};
            for (int64_t w = 0; w < s.W; ++w) {
                const int64_t at = (h * s.W + w) * s.C + u * V, in = ((w + 1) * U + u) * V;
                const Vec dh = load(dz + in) * load(slope + in);
                store(out0 + at, dh);
                one += dh;
                two += dh * (load(y10 + at) - mean);
            }
            first[u] += one, second[u] += two;
        }
    }
    float* const sums = g.sums + image * 11 * s.C + c;
    for (int u = 0; u < U; ++u) {
        for (int t = 0; t < 9; ++t) store(sums + t * s.C + u * V, dk[t][u]);
        store(sums + 9 * s.C + u * V, first[u]);
        store(sums + 10 * s.C + u * V, second[u]);
    }
}

// The gradient of the weights in torch's layout, (C, 9).
void kernel_gradient(const float* sums, float* out, int64_t B, int64_t C) {
    for (int64_t c = 0; c < C; ++c)
        for (int64_t t = 0; t < 9; ++t) {
            float sum = 0;
            for (int64_t b = 0; b < B; ++b) sum += sums[(b * 11 + t) * C + c];
            out[c * 9 + t] = sum;
        }
}

template <class T>
void depthwise_backward(const Gradient<T>& g, const Shape& s) {
    for_blocks(s.B, s.C, [&](int64_t image, int64_t c, int vectors) {
        auto run = vectors == 2 ? (s.stride == 2 ? depthwise_backward_block<T, 2, 2> : depthwise_backward_block<T, 2, 1>)
                                : (s.stride == 2 ? depthwise_backward_block<T, 1, 2> : depthwise_backward_block<T, 1, 1>);
        run(g, s, image, c);
    });
}

// In place: d <- a d - p - q y, batch norm's backward.
template <class T>
void normalized_backward(T* d, const T* y, Norm norm, NormBackward back, int64_t rows, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t c = 0; c < C; c += V) {
            T* const at = d + i * C + c;
            store(at, load(norm.a + c) * load(at) - load(back.p + c) - load(back.q + c) * load(y + i * C + c));
        }
}

// --- the narrow maps, float32 -----------------------------------------------------------------------------------

// sums (B, 2, C) over the pixels of x - shift and its square; if `d` is given, of d and d (x - shift). C may be any.
template <class D>
void narrow_sums(const float* x, const D* d, const float* shift, float* sums, int64_t B, int64_t pixels, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; ++b) {
        std::vector<float> run(2 * C);
        float *const one = run.data(), *const two = one + C, *const total = sums + b * 2 * C;
        std::fill(total, total + 2 * C, 0.0f);
        for (int64_t start = 0; start < pixels; start += RUN) {
            std::fill(run.begin(), run.end(), 0.0f);
            const int64_t end = std::min(pixels, start + RUN);
            for (int64_t i = start; i < end; ++i) {
                const float* const xi = x + (b * pixels + i) * C;
                if (d) {
                    const D* const di = d + (b * pixels + i) * C;
#pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        const float g = to_float(di[c]);
                        one[c] += g;
                        two[c] += g * (xi[c] - shift[c]);
                    }
                } else {
#pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        const float v = xi[c] - shift[c];
                        one[c] += v;
                        two[c] += v * v;
                    }
                }
            }
            for (int64_t c = 0; c < 2 * C; ++c) total[c] += run[c];
        }
    }
}

template <class T>
void narrow_apply(const float* x, Norm norm, T* out, int64_t rows, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) from_float(norm.a[c] * x[i * C + c] + norm.b[c], out + i * C + c);
}

// out = a d - p - q x: batch norm's backward.
template <class T>
void narrow_backward(const T* d, const float* x, Norm norm, NormBackward back, float* out, int64_t rows, int64_t C) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
        for (int64_t c = 0; c < C; ++c)
            out[i * C + c] = norm.a[c] * to_float(d[i * C + c]) - back.p[c] - back.q[c] * x[i * C + c];
}

}  // namespace

#define KERNELS(T, NAME)                                                                                              \
    void moments_##NAME(const T* x, const float* shift, float* sums, int64_t B, int64_t pixels, int64_t C) {          \
        moments(x, shift, sums, B, pixels, C);                                                                        \
    }                                                                                                                 \
    void depthwise_##NAME(const T* y, const float* rows, const float* weight, const float* shift, T* out,             \
                          float* sums, int64_t B, int64_t H, int64_t W, int64_t C, int64_t stride,                    \
                          int64_t circular) {                                                                         \
        depthwise(y, Norm(rows, C), weight, shift, out, sums, Shape{B, H, W, C, stride, circular != 0});              \
    }                                                                                                                 \
    void pooled_##NAME(const T* y, const float* rows, float* means, int64_t B, int64_t pixels, int64_t C) {           \
        pooled(y, Norm(rows, C), means, B, pixels, C);                                                                \
    }                                                                                                                 \
    void gated_##NAME(const T* y, const float* rows, const float* gate, T* out, int64_t B, int64_t pixels,            \
                      int64_t C) {                                                                                    \
        gated(y, Norm(rows, C), gate, out, B, pixels, C);                                                             \
    }                                                                                                                 \
    void gradient_sums_##NAME(const T* d, const T* y, const float* rows, float* sums, int64_t B, int64_t pixels,      \
                              int64_t C) {                                                                            \
        gradient_sums(d, y, Norm(rows, C), sums, B, pixels, C);                                                       \
    }                                                                                                                 \
    void depthwise_backward_##NAME(const T* d, const T* y2, const T* y1, const float* rows2, const float* rows1,      \
                                   const float* gate, const float* spread, const float* back2, const float* weight,   \
                                   T* out, float* sums, int64_t B, int64_t H, int64_t W, int64_t C, int64_t stride,   \
                                   int64_t circular) {                                                                \
        const NormBackward back(back2, C);                                                                            \
        depthwise_backward(                                                                                           \
            Gradient<T>{d, y2, y1, Norm(rows2, C), Norm(rows1, C), gate, spread, back, weight, out, sums},            \
            Shape{B, H, W, C, stride, circular != 0});                                                                \
    }                                                                                                                 \
    void normalized_backward_##NAME(T* d, const T* y, const float* rows, const float* back, int64_t pixels,           \
                                    int64_t C) {                                                                      \
        normalized_backward(d, y, Norm(rows, C), NormBackward(back, C), pixels, C);                                   \
    }                                                                                                                 \
    void narrow_gradient_sums_##NAME(const float* x, const T* d, const float* shift, float* sums, int64_t B,          \
                                     int64_t pixels, int64_t C) {                                                     \
        narrow_sums(x, d, shift, sums, B, pixels, C);                                                                 \
    }                                                                                                                 \
    void narrow_apply_##NAME(const float* x, const float* rows, T* out, int64_t pixels, int64_t C) {                  \
        narrow_apply(x, Norm(rows, C), out, pixels, C);                                                               \
    }                                                                                                                 \
    void narrow_backward_##NAME(const T* d, const float* x, const float* rows, const float* back, float* out,         \
                                int64_t pixels, int64_t C) {                                                          \
        narrow_backward(d, x, Norm(rows, C), NormBackward(back, C), out, pixels, C);                                  \
    }

extern "C" {
KERNELS(float, float32)
KERNELS(BFloat16, bfloat16)

// Kernels of narrow maps and of norms, which are float32 in any case.

void norm_float32(const float* sums, const float* gamma, const float* beta, float* running_mean, float* running_var,
                  int64_t* batches, float* rows, int64_t units, int64_t pixels, int64_t C, float eps, float momentum) {
    norm(sums, gamma, beta, running_mean, running_var, batches, rows, units, pixels, C, eps, momentum);
}
void norm_backward_float32(const float* rows, const float* sums, float* back, int64_t units, int64_t kinds,
                           int64_t first, int64_t pixels, int64_t C) {
    norm_backward(rows, sums, back, units, kinds, first, pixels, C);
}
void kernel_gradient_float32(const float* sums, float* out, int64_t B, int64_t C) { kernel_gradient(sums, out, B, C); }
void narrow_moments_float32(const float* x, const float* shift, float* sums, int64_t B, int64_t pixels, int64_t C) {
    narrow_sums<float>(x, nullptr, shift, sums, B, pixels, C);
}
}
