// The two matrix products of an MBConv block in a training step, float32, tile by tile together with the passes before
// and after them: a factor is computed just before it is multiplied, and the product is used while it is in the cache.
//
// Maps are (pixels, C) in memory, those of all images one after the other. I, M and O are the channels of the block's
// input, of its wide maps (a multiple of 16) and of its output. K, as in product.h, is the number of flips and half turns
// that the weights commute with, or 1.
//
// Pixels are worked on in units, the last of which may have fewer. With a gate a unit is one image, since the gate needs
// the sums of each; else it is one large image or several small ones. Sums are (units, k, C), over a unit's pixels.
// Gradients of weights are added up in as many parts as there are threads, so their last bits depend on that number.

#include <omp.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "norm.h"
#include "product.h"

namespace {

constexpr int64_t TILE = 64;  // pixels of a unit that are multiplied at once

// The rows of channels of TILE pixels, in planes. They are 2 V longer than needed: with a power of two between them, the
// values of a column would fall into the same few lines of the cache.
template <int K>
class Tile {
  public:
    explicit Tile(int64_t channels) : plane(padded(channels / K)), row(K * plane + 2 * V), memory(TILE * row / V) {}
    // Channel c of row i, in plane 0.
    float* at(int64_t i, int64_t c = 0) { return (float*)memory.data() + i * row + c / K; }
    const int64_t plane, row;

  private:
    std::vector<Vec> memory;
};

struct Units {
    int64_t pixels, unit;
    int64_t count = (pixels + unit - 1) / unit;

    // Calls `work(first pixel, pixels)` for each tile of the unit `which`.
    template <class Work>
    void for_tiles(int64_t which, Work work) const {
        const int64_t end = std::min(pixels, (which + 1) * unit);
        for (int64_t first = which * unit; first < end; first += TILE) work(first, std::min(TILE, end - first));
    }
};

// Sums (kinds, C) over the pixels of a unit, added up tile by tile.
class Sums {
  public:
    Sums(float* total, int64_t kinds, int64_t C) : total(total), size(kinds * C), C(C), memory(padded(size) / V) {
        std::fill(total, total + size, 0.0f);
    }
    float* operator[](int64_t kind) { return (float*)memory.data() + kind * C; }
    void add() {
        float* const tile = (*this)[0];
        for (int64_t i = 0; i < size; ++i) total[i] += tile[i], tile[i] = 0;
    }

  private:
    float* total;
    const int64_t size, C;
    std::vector<Vec> memory;
};

inline void accumulate(float* sum, Vec x) { store(sum, load(sum) + x); }

// Writes the channels of row i of a tile: `vector(c)` computes a whole vector of them, `one(c)` one of those that are left.
template <int K, class Vectors, class Floats>
void put(Tile<K>& to, int64_t i, int64_t C, Vectors vector, Floats one) {
    int64_t c = 0;
    for (; c + K * V <= C; c += K * V) {
        Vec x[K];
        for (int k = 0; k < K; ++k) x[k] = vector(c + k * V);
        Lanes<K>::put(x, to.at(i, c), to.plane);
    }
    if constexpr (K > 1)
        for (; c < C; c += V) Lanes<K>::put(vector(c), to.at(i, c), to.plane);
    for (; c < C; ++c) *to.at(i, c) = one(c);
}

// Reads the channels of row i of a tile, and calls `vector(c, x)` or `one(c, x)` with them.
template <int K, class Vectors, class Floats>
void take(Tile<K>& from, int64_t i, int64_t C, Vectors vector, Floats one) {
    int64_t c = 0;
    for (; c + K * V <= C; c += K * V) {
        Vec x[K];
        Lanes<K>::take(from.at(i, c), from.plane, x);
        for (int k = 0; k < K; ++k) vector(c + k * V, x[k]);
    }
    if constexpr (K > 1)
        for (; c < C; c += V) vector(c, Lanes<K>::take(from.at(i, c), from.plane));
    for (; c < C; ++c) one(c, *from.at(i, c));
}

constexpr auto NONE_LEFT = [](auto...) { return 0.0f; };  // as `one` of wide maps, which are whole vectors

template <int K>
void normalize(const float* x, Norm norm, Tile<K>& to, int64_t i, int64_t C) {
    put(
        to, i, C, [=](int64_t c) { return load(norm.a + c) * load(x + c) + load(norm.b + c); },
        [=](int64_t c) { return norm.a[c] * x[c] + norm.b[c]; });
}

template <int K>
void multiply(const Factor<K>& factor, Tile<K>& a, int64_t rows, Tile<K>& c) {
    factor.multiply(a.at(0), a.row, a.plane, rows, c.at(0), c.row, c.plane);
}

// y (pixels, M) = (a x + b) times the transpose of weight (M, I), and its moments as in mbconv.cpp.
template <int K>
void expand(const float* x, Norm norm, const float* weight, const float* shift, float* y, float* sums, Units units,
            int64_t I, int64_t M) {
    const Factor<K> factor(weight, 1, I, I, M);
#pragma omp parallel
    {
        Tile<K> n(I), made(M);
#pragma omp for schedule(static)
        for (int64_t which = 0; which < units.count; ++which) {
            Sums sum(sums + which * 2 * M, 2, M);
            units.for_tiles(which, [&](int64_t first, int64_t rows) {
                for (int64_t i = 0; i < rows; ++i) normalize(x + (first + i) * I, norm, n, i, I);
                multiply(factor, n, rows, made);
                for (int64_t i = 0; i < rows; ++i) {
                    float* const to = y + (first + i) * M;
                    const auto keep = [&](int64_t c, Vec value) {
                        const Vec d = value - load(shift + c);
                        store(to + c, value);
                        accumulate(sum[0] + c, d);
                        accumulate(sum[1] + c, d * d);
                    };
                    take(made, i, M, keep, NONE_LEFT);
                }
                sum.add();
            });
        }
    }
}

// out (pixels, O) = gelu(a y + b) (times gate (units, M), if there is one) times the transpose of weight (O, M) + bias.
template <int K>
void project(const float* y, Norm norm, const float* gate, const float* weight, const float* bias, float* out,
             Units units, int64_t M, int64_t O) {
    const Factor<K> factor(weight, 1, M, M, O);
#pragma omp parallel
    {
        Tile<K> z(M), made(O);
#pragma omp for schedule(static)
        for (int64_t which = 0; which < units.count; ++which)
            units.for_tiles(which, [&](int64_t first, int64_t rows) {
                for (int64_t i = 0; i < rows; ++i) {
                    const float* const from = y + (first + i) * M;
                    const auto make = [&](int64_t c) {
                        const Vec value = gelu(load(norm.a + c) * load(from + c) + load(norm.b + c));
                        return gate ? value * load(gate + which * M + c) : value;
                    };
                    put(z, i, M, make, NONE_LEFT);
                }
                multiply(factor, z, rows, made);
                for (int64_t i = 0; i < rows; ++i) {
                    float* const to = out + (first + i) * O;
                    take(
                        made, i, O, [=](int64_t c, Vec x) { store(to + c, x + load(bias + c)); },
                        [=](int64_t c, float x) { to[c] = x + bias[c]; });
                }
            });
    }
}

// Calls `unit(which)` for the units of a part in their order; one thread does a part.
template <class Work>
void for_parts(int64_t part, int64_t parts, Units units, Work unit) {
    for (int64_t which = part * units.count / parts; which < (part + 1) * units.count / parts; ++which) unit(which);
}

inline int64_t parts_of(Units units) { return std::min<int64_t>(units.count, omp_get_max_threads()); }

// The backward pass of `project`: from d_out (pixels, O), the gradient of its result, to the gradient of the weights,
// (O, M), and to d (pixels, M) with its sums.
// - Without a gate, d is the gradient of h = a y + b, and the two sums are those of d and of d (y - mean).
// - With a gate, d is the gradient of gelu(h) * gate, and the sums are the five of `gradient_sums` in mbconv.cpp.
template <int K, bool GATED>
void project_backward(const float* d_out, const float* y, Norm norm, const float* gate, const float* weight, float* d,
                      float* sums, float* d_weight, Units units, int64_t M, int64_t O) {
    constexpr int SUMS = GATED ? 5 : 2;
    const Factor<K> factor(weight, M, 1, O, M);
    const int64_t parts = parts_of(units);
    FactorGradient<K> gradient(O, M, parts);
#pragma omp parallel
    {
        Tile<K> z(M), dz(M), d_made(O);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < parts; ++part)
            for_parts(part, parts, units, [&](int64_t which) {
                Sums sum(sums + which * SUMS * M, SUMS, M);
                units.for_tiles(which, [&](int64_t first, int64_t rows) {
                    for (int64_t i = 0; i < rows; ++i) {
                        const float* const from = d_out + (first + i) * O;
                        const auto copy = [=](int64_t c) { return load(from + c); };
                        put(d_made, i, O, copy, [=](int64_t c) { return from[c]; });
                    }
                    multiply(factor, d_made, rows, dz);
                    for (int64_t i = 0; i < rows; ++i) {
                        const float* const yi = y + (first + i) * M;
                        float* const to = d + (first + i) * M;
                        const auto back = [&](int64_t c, Vec di) {
                            const Vec yc = load(yi + c), n = yc - load(norm.mean + c);
                            Vec value, slope;
                            gelu_both(load(norm.a + c) * yc + load(norm.b + c), value, slope);
                            const Vec dh = di * slope;
                            if (GATED) {
                                accumulate(sum[0] + c, di * value);
                                accumulate(sum[1] + c, dh);
                                accumulate(sum[2] + c, slope);
                                accumulate(sum[3] + c, dh * n);
                                accumulate(sum[4] + c, slope * n);
                                value *= load(gate + which * M + c);
                            } else {
                                accumulate(sum[0] + c, dh);
                                accumulate(sum[1] + c, dh * n);
                            }
                            store(to + c, GATED ? di : dh);
                            return value;
                        };
                        for (int64_t c = 0; c < M; c += K * V) {
                            Vec x[K];
                            Lanes<K>::take(dz.at(i, c), dz.plane, x);
                            for (int k = 0; k < K; ++k) x[k] = back(c + k * V, x[k]);
                            Lanes<K>::put(x, z.at(i, c), z.plane);
                        }
                    }
                    sum.add();
                    gradient.add(part, d_made.at(0), d_made.row, d_made.plane, z.at(0), z.row, z.plane, rows);
                });
            });
    }
    gradient.write(d_weight, M, 1);
}

// The backward pass of `expand`: from dh (pixels, M), the gradient of the normalized y, to the gradient of the weights,
// (M, I), and to dn (pixels, I), that of n = a x + b, with its sums as in `narrow_sums`.
template <int K>
void expand_backward(const float* dh, const float* y, Norm norm1, NormBackward back1, const float* x, Norm norm0,
                     const float* weight, float* dn, float* sums, float* d_weight, Units units, int64_t I, int64_t M) {
    const Factor<K> factor(weight, I, 1, M, I);
    const int64_t parts = parts_of(units);
    FactorGradient<K> gradient(I, M, parts);
#pragma omp parallel
    {
        Tile<K> n(I), dy(M), made(I);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < parts; ++part)
            for_parts(part, parts, units, [&](int64_t which) {
                Sums sum(sums + which * 2 * I, 2, I);
                units.for_tiles(which, [&](int64_t first, int64_t rows) {
                    for (int64_t i = 0; i < rows; ++i) {
                        normalize(x + (first + i) * I, norm0, n, i, I);
                        const int64_t at = (first + i) * M;
                        const auto make = [=](int64_t c) {
                            const Vec correction = load(back1.p + c) + load(back1.q + c) * load(y + at + c);
                            return load(norm1.a + c) * load(dh + at + c) - correction;
                        };
                        put(dy, i, M, make, NONE_LEFT);
                    }
                    gradient.add(part, n.at(0), n.row, n.plane, dy.at(0), dy.row, dy.plane, rows);
                    multiply(factor, dy, rows, made);
                    for (int64_t i = 0; i < rows; ++i) {
                        const float* const xi = x + (first + i) * I;
                        float* const to = dn + (first + i) * I;
                        take(
                            made, i, I,
                            [&](int64_t c, Vec g) {
                                store(to + c, g);
                                accumulate(sum[0] + c, g);
                                accumulate(sum[1] + c, g * (load(xi + c) - load(norm0.mean + c)));
                            },
                            [&](int64_t c, float g) {
                                to[c] = g;
                                sum[0][c] += g;
                                sum[1][c] += g * (xi[c] - norm0.mean[c]);
                            });
                    }
                    sum.add();
                });
            });
    }
    gradient.write(d_weight, 1, I);
}

// Calls `work` with K = `mirrors` as a constant, or with 1 where the numbers of channels do not suit that K.
template <class Work>
void with(int64_t mirrors, int64_t narrow, int64_t wide, Work work) {
    if (mirrors == 4 && Lanes<4>::suit(narrow, wide)) return work(std::integral_constant<int, 4>());
    if (mirrors == 2 && Lanes<2>::suit(narrow, wide)) return work(std::integral_constant<int, 2>());
    work(std::integral_constant<int, 1>());
}

}  // namespace

extern "C" {
void expand_float32(const float* x, const float* rows, const float* weight, const float* shift, float* y, float* sums,
                    int64_t pixels, int64_t unit, int64_t I, int64_t M, int64_t mirrors) {
    with(mirrors, I, M, [&](auto K) {
        expand<K>(x, Norm(rows, I), weight, shift, y, sums, Units{pixels, unit}, I, M);
    });
}
void project_float32(const float* y, const float* rows, const float* gate, const float* weight, const float* bias,
                     float* out, int64_t pixels, int64_t unit, int64_t M, int64_t O, int64_t mirrors) {
    with(mirrors, O, M, [&](auto K) {
        project<K>(y, Norm(rows, M), gate, weight, bias, out, Units{pixels, unit}, M, O);
    });
}
void project_backward_float32(const float* d_out, const float* y, const float* rows, const float* gate,
                              const float* weight, float* d, float* sums, float* d_weight, int64_t pixels, int64_t unit,
                              int64_t M, int64_t O, int64_t mirrors) {
    with(mirrors, O, M, [&](auto K) {
        const auto run = gate ? project_backward<K, true> : project_backward<K, false>;
        run(d_out, y, Norm(rows, M), gate, weight, d, sums, d_weight, Units{pixels, unit}, M, O);
    });
}
void expand_backward_float32(const float* dh, const float* y, const float* rows1, const float* back1, const float* x,
                             const float* rows0, const float* weight, float* dn, float* sums, float* d_weight,
                             int64_t pixels, int64_t unit, int64_t I, int64_t M, int64_t mirrors) {
    with(mirrors, I, M, [&](auto K) {
        expand_backward<K>(dh, y, Norm(rows1, M), NormBackward(back1, M), x, Norm(rows0, I), weight, dn, sums, d_weight,
                           Units{pixels, unit}, I, M);
    });
}
}
