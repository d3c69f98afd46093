// Global attention with a bias, for maps of few tokens, forward and backward: y = softmax(q k^T scale + bias) v.
//
// Queries, keys and values lie side by side as the linear layer makes them: qkv (B, L, N, 3, D) of type T, float32 or
// bfloat16; the bias is (N, L, L) float32 or absent; y is (B, L, N, D). D is a multiple of 16. A thread works on one head
// of one image at a time, so that its L x L scores stay in the cache; the backward pass computes them again.

#include <algorithm>
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

constexpr int64_t ROWS = 4;  // queries at a time: each key is read once for all of them

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A head of an image in float32: rows (Q, D), their transpose (D, P), and the weights of some queries (ROWS, P).
// Q and P are L rounded up to whole blocks of queries and whole vectors; what lies beyond L is 0.
struct Head {
    int64_t L, Q, P, D;
    std::vector<float> q, k, v, kt, vt, w;

    Head(int64_t tokens, int64_t width) : L(tokens), Q(round_up(tokens, ROWS)), P(round_up(tokens, V)), D(width) {
        for (auto* rows : {&q, &k, &v}) rows->assign(Q * D, 0.0f);
        kt.assign(D * P, 0.0f), vt.assign(D * P, 0.0f), w.resize(ROWS * P);
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

    // out (ROWS, P) = rows (ROWS, D) times turned (D, P).
    void onto_keys(const float* rows, const std::vector<float>& turned, float* out) const {
        for (int64_t j = 0; j < P; j += V) {
            Vec sum[ROWS] = {};
            for (int64_t d = 0; d < D; ++d) {
                const Vec t = load(&turned[d * P + j]);
                for (int64_t r = 0; r < ROWS; ++r) sum[r] += rows[r * D + d] * t;
            }
            for (int64_t r = 0; r < ROWS; ++r) store(out + r * P + j, sum[r]);
        }
    }

    // out (ROWS, D) = weights (ROWS, P) times rows (L, D).
    void over_keys(const float* weights, const std::vector<float>& rows, float* out) const {
        for (int64_t d = 0; d < D; d += V) {
            Vec sum[ROWS] = {};
            for (int64_t j = 0; j < L; ++j) {
                const Vec t = load(&rows[j * D + d]);
                for (int64_t r = 0; r < ROWS; ++r) sum[r] += weights[r * P + j] * t;
            }
            for (int64_t r = 0; r < ROWS; ++r) store(out + r * D + d, sum[r]);
        }
    }

    // The weights of the queries from i on over all keys, into `w`.
    void attend(int64_t i, const float* bias) {
        onto_keys(&q[i * D], kt, w.data());
        for (int64_t r = 0; r < ROWS; ++r) {
            float* const x = &w[r * P];
            if (i + r >= L) {
                std::fill(x, x + P, 0.0f);
                continue;
            }
            if (bias)
                for (int64_t j = 0; j < L; ++j) x[j] += bias[(i + r) * L + j];
            std::fill(x + L, x + P, x[0]);
            Vec tops = load(x);
            for (int64_t j = V; j < P; j += V) {
                const Vec xj = load(x + j);
                tops = xj > tops ? xj : tops;
            }
            float top = tops[0];
            for (int u = 1; u < V; ++u) top = tops[u] > top ? tops[u] : top;
            Vec total = {};
            for (int64_t j = 0; j < P; j += V) {
                Vec e = exponential(load(x + j) - top);
                if (j + V > L)
                    for (int64_t beyond = L - j; beyond < V; ++beyond) e[beyond] = 0.0f;
                store(x + j, e);
                total += e;
            }
            const float inverse = 1.0f / sum_of(total);
            for (int64_t j = 0; j < P; j += V) store(x + j, load(x + j) * inverse);
        }
    }
};

template <class T>
void forward(const T* qkv, const float* bias, T* y, float scale, int64_t B, int64_t L, int64_t N, int64_t D) {
#pragma omp parallel
    {
        Head head(L, D);
        std::vector<float> rows(ROWS * D);
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t n = 0; n < N; ++n) {
                head.read(qkv + (b * L * N + n) * 3 * D, N * 3 * D, scale);
                for (int64_t i = 0; i < L; i += ROWS) {
                    head.attend(i, bias ? bias + n * L * L : nullptr);
                    head.over_keys(head.w.data(), head.v, rows.data());
                    for (int64_t r = 0; r < ROWS && i + r < L; ++r)
                        for (int64_t d = 0; d < D; d += V)
                            store(y + ((b * L + i + r) * N + n) * D + d, load(&rows[r * D + d]));
                }
            }
    }
}

// d_bias (G, N, L, L) holds the sums over G groups of B / G images, or one more, each; the caller adds them up.
template <class T>
void backward(const T* qkv, const float* bias, const T* dy, T* d_qkv, float* d_bias, float scale, int64_t B, int64_t L,
              int64_t N, int64_t D, int64_t G) {
#pragma omp parallel
    {
        Head head(L, D);
        const int64_t P = head.P;
        std::vector<float> dq(head.Q * D), dk(L * D), dv(L * D), ds(ROWS * P), rows(ROWS * D);
#pragma omp for collapse(2) schedule(static)
        for (int64_t g = 0; g < G; ++g)
            for (int64_t n = 0; n < N; ++n) {
                float* const db = d_bias ? d_bias + (g * N + n) * L * L : nullptr;
                if (db) std::fill(db, db + L * L, 0.0f);
                for (int64_t b = g * B / G; b < (g + 1) * B / G; ++b) {
                    head.read(qkv + (b * L * N + n) * 3 * D, N * 3 * D, scale);
                    std::fill(dk.begin(), dk.end(), 0.0f);
                    std::fill(dv.begin(), dv.end(), 0.0f);
                    for (int64_t i = 0; i < L; i += ROWS) {
                        head.attend(i, bias ? bias + n * L * L : nullptr);
                        const float* const w = head.w.data();
                        for (int64_t r = 0; r < ROWS; ++r)
                            for (int64_t d = 0; d < D; d += V)
                                store(&rows[r * D + d],
                                      i + r < L ? load(dy + ((b * L + i + r) * N + n) * D + d) : Vec{});
                        head.onto_keys(rows.data(), head.vt, ds.data());  // of the weights
                        for (int64_t r = 0; r < ROWS; ++r) {
                            float* const s = &ds[r * P];
                            Vec mean = {};
                            for (int64_t j = 0; j < P; j += V) mean += load(w + r * P + j) * load(s + j);
                            const float centre = sum_of(mean);
                            for (int64_t j = 0; j < P; j += V)  // of the scores: w (dw - sum w dw)
                                store(s + j, load(w + r * P + j) * (load(s + j) - centre));
                            if (db && i + r < L)
                                for (int64_t j = 0; j < L; ++j) db[(i + r) * L + j] += s[j];
                        }
                        head.over_keys(ds.data(), head.k, &dq[i * D]);
                        for (int64_t d = 0; d < D; d += V) {
                            Vec dyi[ROWS], qi[ROWS];
                            for (int64_t r = 0; r < ROWS; ++r)
                                dyi[r] = load(&rows[r * D + d]), qi[r] = load(&head.q[(i + r) * D + d]);
                            for (int64_t j = 0; j < L; ++j) {
                                Vec k = load(&dk[j * D + d]), v = load(&dv[j * D + d]);
                                for (int64_t r = 0; r < ROWS; ++r) {
                                    k += ds[r * P + j] * qi[r];
                                    v += w[r * P + j] * dyi[r];
                                }
                                store(&dk[j * D + d], k);
                                store(&dv[j * D + d], v);
                            }
                        }
                    }
                    for (int64_t i = 0; i < L; ++i)
                        for (int64_t d = 0; d < D; d += V) {
                            T* const at = d_qkv + ((b * L + i) * N + n) * 3 * D + d;
                            store(at, load(&dq[i * D + d]) * scale);
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
