// Global attention with a bias, for maps of few tokens, forward and backward: y = softmax(q k^T scale + bias) v.
//
// Queries, keys and values lie side by side as the linear layer makes them: qkv (B, L, N, 3, D) of type T, float32 or
// bfloat16; the bias is (N, L, L) float32 or absent; y is (B, L, N, D). D is a multiple of 16. One head of one image is
// worked on at a time, so that its L x L scores stay in the cache; they are made again in the backward pass.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

inline Vec exponential(Vec x) {  // for x <= 0
    const Vec t = x * 1.44269504f;
    return power_of_two(t < -126.0f ? all(-126.0f) : t);
}

inline float sum_of(Vec v) {
    float x[V], total = 0.0f;
    store(x, v);
    for (int i = 0; i < V; ++i) total += x[i];
    return total;
}

// A head of an image in float32: rows (L, D), and the same turned (D, P), P being L rounded up to whole vectors.
struct Head {
    int64_t L, P, D;
    std::vector<float> q, k, v, kt, vt, scores;

    Head(int64_t tokens, int64_t width) : L(tokens), P((tokens + V - 1) / V * V), D(width) {
        for (auto* rows : {&q, &k, &v}) rows->resize(L * D);
        kt.assign(D * P, 0.0f), vt.assign(D * P, 0.0f), scores.resize(P);
    }

    template <class T>
    void read(const T* qkv, int64_t step, float scale) {
        for (int64_t i = 0; i < L; ++i)
            for (int64_t d = 0; d < D; d += V) {
                const T* const at = qkv + i * step + d;
                store(&q[i * D + d], load(at) * scale);
                store(&k[i * D + d], load(at + D));
                store(&v[i * D + d], load(at + 2 * D));
            }
        for (int64_t i = 0; i < L; ++i)
            for (int64_t d = 0; d < D; ++d) kt[d * P + i] = k[i * D + d], vt[d * P + i] = v[i * D + d];
    }

    // out (P) = row (D) times turned (D, P).
    void product(const float* row, const std::vector<float>& turned, float* out) const {
        for (int64_t j = 0; j < P; j += V) {
            Vec sum = {};
            for (int64_t d = 0; d < D; ++d) sum += row[d] * load(&turned[d * P + j]);
            store(out + j, sum);
        }
    }

    // The weights of query i over all keys, into `scores`; beyond L they are 0.
    void weights(int64_t i, const float* bias) {
        product(&q[i * D], kt, scores.data());
        float top = -INFINITY;
        for (int64_t j = 0; j < L; ++j) {
            if (bias) scores[j] += bias[i * L + j];
            top = scores[j] > top ? scores[j] : top;
        }
        for (int64_t j = L; j < P; ++j) scores[j] = -INFINITY;
        Vec total = {};
        for (int64_t j = 0; j < P; j += V) {
            const Vec e = exponential(load(&scores[j]) - top);
            store(&scores[j], e);
            total += e;
        }
        for (int64_t j = L; j < P; ++j) total[j - (P - V)] -= scores[j], scores[j] = 0.0f;  // 2^-126 each, not 0
        const float inverse = 1.0f / sum_of(total);
        for (int64_t j = 0; j < P; j += V) store(&scores[j], load(&scores[j]) * inverse);
    }
};

template <class T>
void forward(const T* qkv, const float* bias, T* y, float scale, int64_t B, int64_t L, int64_t N, int64_t D) {
#pragma omp parallel
    {
        Head head(L, D);
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t n = 0; n < N; ++n) {
                head.read(qkv + (b * L * N + n) * 3 * D, N * 3 * D, scale);
                for (int64_t i = 0; i < L; ++i) {
                    head.weights(i, bias ? bias + n * L * L : nullptr);
                    for (int64_t d = 0; d < D; d += V) {
                        Vec sum = {};
                        for (int64_t j = 0; j < L; ++j) sum += head.scores[j] * load(&head.v[j * D + d]);
                        store(y + ((b * L + i) * N + n) * D + d, sum);
                    }
                }
            }
    }
}

// d_bias (G, N, L, L) holds the sums over G groups of images, of B / G or one more each: the caller adds them up.
template <class T>
void backward(const T* qkv, const float* bias, const T* dy, T* d_qkv, float* d_bias, float scale, int64_t B, int64_t L,
              int64_t N, int64_t D, int64_t G) {
#pragma omp parallel
    {
        Head head(L, D);
        std::vector<float> dq(L * D), dk(L * D), dv(L * D), dw(head.P), row(D);
#pragma omp for collapse(2) schedule(static)
        for (int64_t g = 0; g < G; ++g)
            for (int64_t n = 0; n < N; ++n) {
                float* const db = d_bias ? d_bias + (g * N + n) * L * L : nullptr;
                if (db) std::fill(db, db + L * L, 0.0f);
                for (int64_t b = g * B / G; b < (g + 1) * B / G; ++b) {
                    head.read(qkv + (b * L * N + n) * 3 * D, N * 3 * D, scale);
                    std::fill(dk.begin(), dk.end(), 0.0f);
                    std::fill(dv.begin(), dv.end(), 0.0f);
                    for (int64_t i = 0; i < L; ++i) {
                        head.weights(i, bias ? bias + n * L * L : nullptr);
                        float* const w = head.scores.data();
                        for (int64_t d = 0; d < D; d += V) store(&row[d], load(dy + ((b * L + i) * N + n) * D + d));
                        head.product(row.data(), head.vt, dw.data());
                        Vec mean = {};
                        for (int64_t j = 0; j < head.P; j += V) mean += load(w + j) * load(&dw[j]);
                        const float centre = sum_of(mean);
                        for (int64_t j = 0; j < head.P; j += V)  // of the scores: w (dw - sum w dw)
                            store(&dw[j], load(w + j) * (load(&dw[j]) - centre));
                        if (db)
                            for (int64_t j = 0; j < L; ++j) db[i * L + j] += dw[j];
                        for (int64_t d = 0; d < D; d += V) {
                            const Vec dyi = load(&row[d]), qi = load(&head.q[i * D + d]);
                            Vec sum = {};
                            for (int64_t j = 0; j < L; ++j) {
                                const int64_t at = j * D + d;
                                sum += dw[j] * load(&head.k[at]);
                                store(&dk[at], load(&dk[at]) + dw[j] * qi);
                                store(&dv[at], load(&dv[at]) + w[j] * dyi);
                            }
                            store(&dq[i * D + d], sum * scale);
                        }
                    }
                    for (int64_t i = 0; i < L; ++i)
                        for (int64_t d = 0; d < D; d += V) {
                            T* const at = d_qkv + ((b * L + i) * N + n) * 3 * D + d;
                            store(at, load(&dq[i * D + d]));
                            store(at + D, load(&dk[i * D + d]));
                            store(at + 2 * D, load(&dv[i * D + d]));
                        }
                }
            }
    }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                            \
    void forward_##NAME(const T* qkv, const float* bias, T* y, float scale, int64_t B, int64_t L, int64_t N,        \
                        int64_t D) {                                                                                \
        forward(qkv, bias, y, scale, B, L, N, D);                                                                   \
    }                                                                                                               \
    void backward_##NAME(const T* qkv, const float* bias, const T* dy, T* d_qkv, float* d_bias, float scale,        \
                         int64_t B, int64_t L, int64_t N, int64_t D, int64_t G) {                                   \
        backward(qkv, bias, dy, d_qkv, d_bias, scale, B, L, N, D, G);                                               \
    }

extern "C" {
KERNELS(float, float32)
KERNELS(BFloat16, bfloat16)
}
