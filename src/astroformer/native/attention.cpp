// Global attention with a bias, for maps of few tokens, forward and backward: y = softmax(q k^T scale + bias) v.
//
// Queries, keys and values lie side by side as the linear layer makes them: qkv (B, L, N, 3, D) of type T, float32 or
// bfloat16; the bias is (N, L, L) float32 or absent; y is (B, L, N, D). D is a multiple of 4. A thread works on one head
// of one image at a time, so that its scores stay in the cache; the backward pass computes them again.
//
// Heads are narrow, so vectors run along the queries: a block of V queries meets one key after the other, and no sum
// runs along a vector. Sums over queries, for the gradients of keys and values, run along the channels instead.

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

constexpr int KEYS = 8;  // at a time, so that what they meet is read once for all of them

inline Vec exponential(Vec x) {  // for x <= 0
    const Vec t = x * 1.44269504f;
    return power_of_two(t < -126.0f ? all(-126.0f) : t);
}

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Four channels of a token, which are turned four tokens at a time.
typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

inline Four load_four(const float* p) {
    Four x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline Four load_four(const BFloat16* p) { return Four{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
inline void store_four(float* p, Four x) { std::memcpy(p, &x, sizeof x); }
inline void store_four(BFloat16* p, Four x) {
    for (int r = 0; r < 4; ++r) from_float(x[r], p + r);
}

inline void turn(Four x[4]) {  // rows become columns
    const FourInts low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, last = {2, 3, 6, 7};
    const Four a = __builtin_shuffle(x[0], x[1], low), b = __builtin_shuffle(x[0], x[1], high);
    const Four c = __builtin_shuffle(x[2], x[3], low), d = __builtin_shuffle(x[2], x[3], high);
    x[0] = __builtin_shuffle(a, c, first), x[1] = __builtin_shuffle(a, c, last);
    x[2] = __builtin_shuffle(b, d, first), x[3] = __builtin_shuffle(b, d, last);
}

// The queries, keys, values or results of a head of an image, in float32: rows (Q, D) and their transpose (D, P). Q and P
// are L rounded up to whole blocks of keys and of queries; what lies beyond L is 0.
struct Tokens {
    int64_t L, P, D;
    std::vector<float> rows, turned;

    Tokens(int64_t tokens, int64_t width)
        : L(tokens), P(round_up(tokens, V)), D(width), rows(round_up(tokens, 16) * width), turned(P * width) {}

    template <class T>
    void read(const T* from, int64_t step, float scale = 1.0f) {
        for (int64_t i = 0; i < L; ++i)
            for (int64_t d = 0; d < D; d += 4) store_four(&rows[i * D + d], load_four(from + i * step + d) * scale);
        for (int64_t i = 0; i < L; i += 4)
            for (int64_t d = 0; d < D; d += 4) {
                Four x[4];
                for (int r = 0; r < 4; ++r) x[r] = load_four(&rows[(i + r) * D + d]);
                turn(x);
                for (int r = 0; r < 4; ++r) store_four(&turned[(d + r) * P + i], x[r]);
            }
    }

    template <class T>
    void write_rows(T* to, int64_t step) const {
        for (int64_t i = 0; i < L; ++i)
            for (int64_t d = 0; d < D; d += 4) store_four(to + i * step + d, load_four(&rows[i * D + d]));
    }

    template <class T>
    void write_turned(T* to, int64_t step) const {
        for (int64_t i = 0; i < L; i += 4)
            for (int64_t d = 0; d < D; d += 4) {
                Four x[4];
                for (int r = 0; r < 4; ++r) x[r] = load_four(&turned[(d + r) * P + i]);
                turn(x);
                for (int r = 0; r < 4 && i + r < L; ++r) store_four(to + (i + r) * step + d, x[r]);
            }
    }
};

// out (L, V) = products of all tokens of `every` with the V tokens of `some` from `from` on.
inline void products(const Tokens& every, const Tokens& some, int64_t from, float* out) {
    const int64_t D = every.D;
    for (int64_t j = 0; j < every.L; j += KEYS) {
        const float* const rows = &every.rows[j * D];
        Vec sum[KEYS] = {};
        for (int64_t d = 0; d < D; ++d) {
            const Vec t = load(&some.turned[d * some.P + from]);
            for (int k = 0; k < KEYS; ++k) sum[k] += rows[k * D + d] * t;
        }
        for (int k = 0; k < KEYS; ++k) store(out + (j + k) * V, sum[k]);
    }
}

// The V tokens of `some` from `from` on = `factor` times the sums over all tokens of `every`, times weights (L, V).
template <int CHANNELS>
inline int64_t sums_of(const Tokens& every, const float* weights, Tokens& some, int64_t from, Vec factor, int64_t d) {
    for (; d + CHANNELS <= every.D; d += CHANNELS) {
        const float* rows = &every.rows[d];
        Vec sum[CHANNELS] = {};
        for (int64_t j = 0; j < every.L; ++j, rows += every.D) {
            const Vec w = load(weights + j * V);
#pragma GCC unroll 8
            for (int c = 0; c < CHANNELS; ++c) sum[c] += rows[c] * w;
        }
#pragma GCC unroll 8
        for (int c = 0; c < CHANNELS; ++c) store(&some.turned[(d + c) * some.P + from], sum[c] * factor);
    }
    return d;
}

inline void sums(const Tokens& every, const float* weights, Tokens& some, int64_t from, Vec factor) {
    const int64_t done = sums_of<8>(every, weights, some, from, factor, 0);
    sums_of<4>(every, weights, some, from, factor, done);
}

// The rows of all tokens of `every` += weights (L, V) times the rows of V tokens of `some` from `from` on. WIDTH floats
// at a time, a divisor of D.
template <int WIDTH>
inline void add_sums_of(Tokens& every, const float* weights, const Tokens& some, int64_t from) {
    typedef float Part __attribute__((vector_size(4 * WIDTH)));
    const int64_t D = some.D;
    for (int64_t j = 0; j < every.L; j += KEYS)
        for (int64_t d = 0; d < D; d += WIDTH) {
            float* const to = &every.rows[j * D + d];
            const float* at = &some.rows[from * D + d];
            Part sum[KEYS];
#pragma GCC unroll 8
            for (int k = 0; k < KEYS; ++k) std::memcpy(&sum[k], to + k * D, sizeof sum[k]);
            for (int i = 0; i < V; ++i, at += D) {
                Part x;
                std::memcpy(&x, at, sizeof x);
#pragma GCC unroll 8
                for (int k = 0; k < KEYS; ++k) sum[k] += weights[(j + k) * V + i] * x;
            }
#pragma GCC unroll 8
            for (int k = 0; k < KEYS; ++k) std::memcpy(to + k * D, &sum[k], sizeof sum[k]);
        }
}

inline void add_sums(Tokens& every, const float* weights, const Tokens& some, int64_t from) {
    if (V >= 16 && some.D % 16 == 0) return add_sums_of<16>(every, weights, some, from);
    if (V >= 8 && some.D % 8 == 0) return add_sums_of<8>(every, weights, some, from);
    add_sums_of<4>(every, weights, some, from);
}

// A head of an image.
struct Head {
    int64_t L;
    Tokens q, k, v, y;        // y: the result, or its gradient
    std::vector<float> w;     // (L, V) and some rows more: of a block of queries, weights over all keys
    std::vector<float> bias;  // (P / V, L, V): blocks of queries, keys, the queries of a block

    Head(int64_t tokens, int64_t width)
        : L(tokens), q(tokens, width), k(tokens, width), v(tokens, width), y(tokens, width),
          w(round_up(tokens, KEYS) * V), bias(tokens * q.P) {}

    int64_t place(int64_t i, int64_t j) const { return (i / V * L + j) * V + i % V; }  // in `bias`

    void read_bias(const float* from) {  // (L, L) of queries and keys, or null
        for (int64_t i = 0; i < L; ++i)
            for (int64_t j = 0; j < L; ++j) bias[place(i, j)] = from ? from[i * L + j] : 0.0f;
    }

    template <class T>
    void read(const T* qkv, int64_t step, float scale) {
        q.read(qkv, step, scale), k.read(qkv + q.D, step), v.read(qkv + 2 * q.D, step);
    }

    // Writes the weights of the queries from i on over all keys into `w`, but for a factor of each query, and gives that.
    Vec attend(int64_t i) {
        const float* const biases = &bias[place(i, 0)];
        products(k, q, i, w.data());
        Vec top = load(&w[0]) + load(biases);
        for (int64_t j = 0; j < L; ++j) {
            const Vec s = load(&w[j * V]) + load(biases + j * V);
            store(&w[j * V], s);
            top = s > top ? s : top;
        }
        Vec total = {};
        for (int64_t j = 0; j < L; ++j) {
            const Vec e = exponential(load(&w[j * V]) - top);
            store(&w[j * V], e);
            total += e;
        }
        return 1.0f / total;
    }
};

template <class T>
void forward(const T* qkv, const float* bias, T* y, float scale, int64_t B, int64_t L, int64_t N, int64_t D) {
#pragma omp parallel
    {
        Head head(L, D);
        int64_t biased = -1;
#pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < N; ++n)
            for (int64_t b = 0; b < B; ++b) {
                if (biased != n) head.read_bias(bias ? bias + n * L * L : nullptr), biased = n;
                head.read(qkv + (b * L * N + n) * 3 * D, N * 3 * D, scale);
                for (int64_t i = 0; i < L; i += V) {
                    const Vec factor = head.attend(i);
                    sums(head.v, head.w.data(), head.y, i, factor);
                }
                head.y.write_turned(y + (b * L * N + n) * D, N * D);
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
        Tokens dq(L, D), dk(L, D), dv(L, D);
        std::vector<float> gradients(head.w.size()), db(head.bias.size());
        float *const w = head.w.data(), *const ds = gradients.data();
#pragma omp for collapse(2) schedule(static)
        for (int64_t g = 0; g < G; ++g)
            for (int64_t n = 0; n < N; ++n) {
                head.read_bias(bias ? bias + n * L * L : nullptr);
                std::fill(db.begin(), db.end(), 0.0f);
                for (int64_t b = g * B / G; b < (g + 1) * B / G; ++b) {
                    head.read(qkv + (b * L * N + n) * 3 * D, N * 3 * D, scale);
                    head.y.read(dy + (b * L * N + n) * D, N * D);
                    std::fill(dk.rows.begin(), dk.rows.end(), 0.0f);
                    std::fill(dv.rows.begin(), dv.rows.end(), 0.0f);
                    for (int64_t i = 0; i < L; i += V) {
                        const Vec factor = head.attend(i);
                        products(head.v, head.y, i, ds);  // of the weights, so far
                        Vec mean = {};
                        for (int64_t j = 0; j < L; ++j) {
                            const Vec wj = load(w + j * V) * factor;
                            store(w + j * V, wj);
                            mean += wj * load(ds + j * V);
                        }
                        float* const dbi = &db[head.place(i, 0)];
                        for (int64_t j = 0; j < L; ++j) {  // of the scores: w (dw - sum w dw)
                            const Vec dsj = load(w + j * V) * (load(ds + j * V) - mean);
                            store(ds + j * V, dsj);
                            store(dbi + j * V, load(dbi + j * V) + dsj);
                        }
                        sums(head.k, ds, dq, i, all(scale));
                        add_sums(dk, ds, head.q, i);
                        add_sums(dv, w, head.y, i);
                    }
                    T* const to = d_qkv + (b * L * N + n) * 3 * D;
                    dq.write_turned(to, N * 3 * D);
                    dk.write_rows(to + D, N * 3 * D), dv.write_rows(to + 2 * D, N * 3 * D);
                }
                if (d_bias)
                    for (int64_t i = 0; i < L; ++i)
                        for (int64_t j = 0; j < L; ++j) d_bias[((g * N + n) * L + i) * L + j] = db[head.place(i, j)];
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
