// The two matrix products of an MBConv block in a training step, float32, tile by tile with the passes before and after
// them: what is multiplied is made on the way, and what comes of it is used while it is in the cache.
//
// Maps are (pixels, C) in memory, those of all images one after the other. I, M and O are the channels of the block's input,
// of its wide maps, a multiple of 16, and of its output.
//
// Pixels come in units of so many, the last may have fewer: those of an image where there is a gate, whose sums are kept
// apart, else of some small images or of a large one. Sums are of a unit's pixels, (units, k, C).

#include <algorithm>
#include <vector>

#include "norm.h"
#include "product.h"

namespace {

constexpr int64_t TILE = 64;  // pixels of a unit that are worked on at once

// Rows of a tile, a little longer than a map's: else columns of wide maps would all fall into few lines of the cache.
class Tile {
  public:
    explicit Tile(int64_t channels) : row(padded(channels) + PANEL), memory(TILE * row / V) {}
    float* operator[](int64_t i) { return (float*)memory.data() + i * row; }
    const int64_t row;

  private:
    std::vector<Vec> memory;
};

struct Units {
    int64_t pixels, unit;
    int64_t count = (pixels + unit - 1) / unit;

    // Calls `tile(first pixel, pixels)` for each tile of one of them.
    template <class Work>
    void for_tiles(int64_t which, Work work) const {
        const int64_t end = std::min(pixels, (which + 1) * unit);
        for (int64_t first = which * unit; first < end; first += TILE) work(first, std::min(TILE, end - first));
    }
};

// Sums of so many kinds over the pixels of a unit, tile by tile, (kinds, C).
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

// y (pixels, M) = (a x + b) times the transpose of weight (M, I), and its moments as above.
void expand(const float* x, Norm norm, const float* weight, const float* shift, float* y, float* sums, Units units,
            int64_t I, int64_t M) {
    const Panels panels(weight, 1, I, I, M);
#pragma omp parallel
    {
        Tile n(I), made(M);
#pragma omp for schedule(static)
        for (int64_t which = 0; which < units.count; ++which) {
            Sums sum(sums + which * 2 * M, 2, M);
            units.for_tiles(which, [&](int64_t first, int64_t rows) {
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t c = 0; c < I; ++c) n[i][c] = norm.a[c] * x[(first + i) * I + c] + norm.b[c];
                panels.multiply(n[0], n.row, rows, made[0], made.row);
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t c = 0; c < M; c += V) {
                        const Vec value = load(made[i] + c), d = value - load(shift + c);
                        store(y + (first + i) * M + c, value);
                        accumulate(sum[0] + c, d);
                        accumulate(sum[1] + c, d * d);
                    }
                sum.add();
            });
        }
    }
}

// out (pixels, O) = gelu(a y + b) (times gate (units, M), if there is one) times the transpose of weight (O, M) + bias.
void project(const float* y, Norm norm, const float* gate, const float* weight, const float* bias, float* out,
             Units units, int64_t M, int64_t O) {
    const Panels panels(weight, 1, M, M, O);
#pragma omp parallel
    {
        Tile z(M), made(O);
#pragma omp for schedule(static)
        for (int64_t which = 0; which < units.count; ++which)
            units.for_tiles(which, [&](int64_t first, int64_t rows) {
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t c = 0; c < M; c += V) {
                        const Vec value = gelu(load(norm.a + c) * load(y + (first + i) * M + c) + load(norm.b + c));
                        store(z[i] + c, gate ? value * load(gate + which * M + c) : value);
                    }
                panels.multiply(z[0], z.row, rows, made[0], made.row);
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t c = 0; c < O; ++c) out[(first + i) * O + c] = made[i][c] + bias[c];
            });
    }
}

// The first unit of one of so many groups.
inline int64_t first_of(int64_t group, int64_t groups, Units units) { return group * units.count / groups; }

// The backward pass of `project`, d_out (pixels, O) being the gradient of its result: that of the weights, added up for
// each group of units, (groups, O, padded M), and
// - without a gate d (pixels, M) is the gradient of h = a y + b, and the two sums are its own and that times y - mean;
// - with one d is the gradient of gelu(h) * gate, and the sums are the five of `gradient_sums`.
template <bool GATED>
void project_backward(const float* d_out, const float* y, Norm norm, const float* gate, const float* weight, float* d,
                      float* sums, float* d_weight, Units units, int64_t M, int64_t O, int64_t groups) {
    constexpr int KINDS = GATED ? 5 : 2;
    const Panels panels(weight, M, 1, O, M);
    const int64_t size = padded(M);
#pragma omp parallel
    {
        Tile z(M), dz(M);
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups; ++group) {
            bool add = false;
            for (int64_t which = first_of(group, groups, units); which < first_of(group + 1, groups, units); ++which) {
                Sums sum(sums + which * KINDS * M, KINDS, M);
                units.for_tiles(which, [&](int64_t first, int64_t rows) {
                    panels.multiply(d_out + first * O, O, rows, dz[0], dz.row);
                    for (int64_t i = 0; i < rows; ++i)
                        for (int64_t c = 0; c < M; c += V) {
                            const Vec yi = load(y + (first + i) * M + c), n = yi - load(norm.mean + c);
                            const Vec di = load(dz[i] + c);
                            Vec value, slope;
                            gelu_both(load(norm.a + c) * yi + load(norm.b + c), value, slope);
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
                            store(z[i] + c, value);
                            store(d + (first + i) * M + c, GATED ? di : dh);
                        }
                    sum.add();
                    transposed_product(d_out + first * O, O, O, z[0], z.row, M, d_weight + group * O * size, size, rows,
                                       add);
                    add = true;
                });
            }
        }
    }
}

// The backward pass of `expand`, dh (pixels, M) being the gradient of the normalized y: that of its weights, added up for
// each group of units, (groups, M, padded I), that of n = a x + b (pixels, I), and its sums as `narrow_sums` has them.
void expand_backward(const float* dh, const float* y, Norm norm1, NormBackward back1, const float* x, Norm norm0,
                     const float* weight, float* dn, float* sums, float* d_weight, Units units, int64_t I, int64_t M,
                     int64_t groups) {
    const Panels panels(weight, I, 1, M, I);
    const int64_t size = padded(I);
#pragma omp parallel
    {
        Tile n(I), dy(M), made(I);
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups; ++group) {
            bool add = false;
            for (int64_t which = first_of(group, groups, units); which < first_of(group + 1, groups, units); ++which) {
                Sums sum(sums + which * 2 * I, 2, I);
                units.for_tiles(which, [&](int64_t first, int64_t rows) {
                    for (int64_t i = 0; i < rows; ++i) {
                        for (int64_t c = 0; c < I; ++c) n[i][c] = norm0.a[c] * x[(first + i) * I + c] + norm0.b[c];
                        for (int64_t c = 0; c < M; c += V) {
                            const int64_t at = (first + i) * M + c;
                            const Vec correction = load(back1.p + c) + load(back1.q + c) * load(y + at);
                            store(dy[i] + c, load(norm1.a + c) * load(dh + at) - correction);
                        }
                    }
                    transposed_product(dy[0], dy.row, M, n[0], n.row, I, d_weight + group * M * size, size, rows, add);
                    add = true;
                    panels.multiply(dy[0], dy.row, rows, made[0], made.row);
                    for (int64_t i = 0; i < rows; ++i)
                        for (int64_t c = 0; c < I; ++c) {
                            const float g = made[i][c];
                            dn[(first + i) * I + c] = g;
                            sum[0][c] += g;
                            sum[1][c] += g * (x[(first + i) * I + c] - norm0.mean[c]);
                        }
                    sum.add();
                });
            }
        }
    }
}

}  // namespace

extern "C" {
void expand_float32(const float* x, const float* rows, const float* weight, const float* shift, float* y, float* sums,
                    int64_t pixels, int64_t unit, int64_t I, int64_t M) {
    expand(x, Norm(rows, I), weight, shift, y, sums, Units{pixels, unit}, I, M);
}
void project_float32(const float* y, const float* rows, const float* gate, const float* weight, const float* bias,
                     float* out, int64_t pixels, int64_t unit, int64_t M, int64_t O) {
    project(y, Norm(rows, M), gate, weight, bias, out, Units{pixels, unit}, M, O);
}
void project_backward_float32(const float* d_out, const float* y, const float* rows, const float* gate,
                              const float* weight, float* d, float* sums, float* d_weight, int64_t pixels, int64_t unit,
                              int64_t M, int64_t O, int64_t groups) {
    const auto run = gate ? project_backward<true> : project_backward<false>;
    run(d_out, y, Norm(rows, M), gate, weight, d, sums, d_weight, Units{pixels, unit}, M, O, groups);
}
void expand_backward_float32(const float* dh, const float* y, const float* rows1, const float* back1, const float* x,
                             const float* rows0, const float* weight, float* dn, float* sums, float* d_weight,
                             int64_t pixels, int64_t unit, int64_t I, int64_t M, int64_t groups) {
    expand_backward(dh, y, Norm(rows1, M), NormBackward(back1, M), x, Norm(rows0, I), weight, dn, sums, d_weight,
                    Units{pixels, unit}, I, M, groups);
}
}
