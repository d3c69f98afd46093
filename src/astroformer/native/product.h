// Products of float32 matrices that fit into the processor's cache, for kernels that compute one factor just before and
// use the result just after.
//
// Everything here has a parameter K. K = 1 is for any matrix. K = 2 or 4 is for a matrix that commutes with K flips and
// half turns of the image. Its channels come in groups, one channel for each element of the whole group of flips and
// turns (network/group.py). The K elements commute with each other, so their characters chi split such a matrix: in the
// coordinates x^(chi) = sum over k of chi(k) x(k) it consists of K matrices with a Kth of the channels each way, and a
// product takes a Kth of the multiplications (Bokman, Nordstrom & Kahl, arXiv 2502.05169, for the mirror). Rows of
// channels are then kept as K planes, one for each chi (`Lanes::put`).

#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "vectors.h"

namespace {

inline int64_t padded(int64_t columns) { return (columns + V - 1) / V * V; }

// --- blocks of the result -----------------------------------------------------------------------------------------

// Rows of a block. With two vectors of columns it takes 15 of 16 registers: 12 sums, 2 of one factor, 1 of the other.
constexpr int BLOCK = 6;

// c (R, U vectors) = sum over k of a(r, k) b(k), or c += that sum; a(r, k) lies at a + r row + k step.
template <int R, int U>
void product_block(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, float* c, int64_t c_row,
                   int64_t in, bool add) {
    Vec sum[R][U] = {};
    for (int64_t k = 0; k < in; ++k) {
        Vec bk[U];
        for (int u = 0; u < U; ++u) bk[u] = load(b + k * b_row + u * V);
        for (int r = 0; r < R; ++r) {
            const float x = a[r * row + k * step];
            for (int u = 0; u < U; ++u) sum[r][u] += x * bk[u];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int u = 0; u < U; ++u) {
            float* const to = c + r * c_row + u * V;
            store(to, add ? load(to) + sum[r][u] : sum[r][u]);
        }
}

// The same for any number of rows.
template <int U>
void product_rows(int64_t rows, const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, float* c,
                  int64_t c_row, int64_t in, bool add) {
    for (; rows >= BLOCK; rows -= BLOCK, a += BLOCK * row, c += BLOCK * c_row)
        product_block<BLOCK, U>(a, row, step, b, b_row, c, c_row, in, add);
    switch (rows) {
        case 5: return product_block<5, U>(a, row, step, b, b_row, c, c_row, in, add);
        case 4: return product_block<4, U>(a, row, step, b, b_row, c, c_row, in, add);
        case 3: return product_block<3, U>(a, row, step, b, b_row, c, c_row, in, add);
        case 2: return product_block<2, U>(a, row, step, b, b_row, c, c_row, in, add);
        case 1: return product_block<1, U>(a, row, step, b, b_row, c, c_row, in, add);
    }
}

// Calls `block(first column, vectors)` for all columns, two vectors at a time while more than one is left.
template <class Work>
void for_panels(int64_t columns, Work block) {
    for (int64_t n = 0; n < columns; n += 2 * V)
        columns - n > V ? block(n, std::integral_constant<int, 2>()) : block(n, std::integral_constant<int, 1>());
}

// --- planes -------------------------------------------------------------------------------------------------------

// A vector whose lane L is lane Map::of(L) of a and b side by side. The lanes are constants, so that the compiler finds
// the instruction that shuffles them.
template <class Map, int... L>
Vec chosen(Vec a, Vec b, std::integer_sequence<int, L...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, Map::of(L)...);
#else
    return __builtin_shuffle(a, b, Ints{Map::of(L)...});
#endif
}
template <class Map>
Vec chosen(Vec a, Vec b) {
    return chosen<Map>(a, b, std::make_integer_sequence<int, V>());
}
template <class Map, int... L>
Vec signs(std::integer_sequence<int, L...>) {
    return Vec{(Map::negative(L) ? -1.0f : 1.0f)...};
}

// How the lanes of a vector of channels are numbered: each is (kind j, element k), where k is one of the K elements, and
// j tells apart the channels that the K elements do not bring to each other. The product of two elements is the
// exclusive or of their numbers. In planes the lane of kind j and element k lies at k KINDS + j.
template <int K>
struct Lanes {
    static constexpr int GROUP = K == 4 ? 8 : K;  // channels of a group: of d4, of the mirror
    static constexpr int KINDS = V / K;           // in a vector
    static_assert(K == 1 || K == 2 || K == 4);

    // Whether these numbers of channels suit: wide maps are taken K vectors at a time, narrow ones one.
    static bool suit(int64_t narrow, int64_t wide) {
        return K == 1 || (V % GROUP == 0 && narrow % V == 0 && wide % (K * V) == 0);
    }

    // Which lane comes to a place in planes. The elements of d4 are (quarter turns, flipped), in the order of
    // network/group.py: 0 to 3 turns, then 0 to 3 turns flipped. The K = 4 elements are no turn, a half turn, a flip and
    // both; each times a quarter turn gives the second kind of a group.
    static constexpr int lane(int place) {
        constexpr int D4[8] = {0, 2, 4, 6, 1, 3, 7, 5};
        const int j = place % KINDS, k = place / KINDS, own = GROUP / K;
        return GROUP * (j / own) + (K == 4 ? D4[j % own * 4 + k] : k);
    }
    static constexpr int place(int of) {
        int found = 0;
        for (int i = 0; i < V; ++i) found = lane(i) == of ? i : found;
        return found;
    }

    // The channel of element k at place j of a plane.
    static int64_t channel(int64_t j, int k) { return K == 1 ? j : j / KINDS * V + lane(k * KINDS + int(j % KINDS)); }

    // Writes K vectors of channels to the K planes, which are `plane` floats apart.
    static void put(Vec (&x)[K], float* to, int64_t plane) {
        for (int i = 0; i < K; ++i) x[i] = characters(chosen<Order>(x[i], x[i]));
        transpose(x);
        for (int k = 0; k < K; ++k) store(to + k * plane, x[k]);
    }

    // The inverse of `put`, times K.
    static void take(const float* from, int64_t plane, Vec (&x)[K]) {
        for (int k = 0; k < K; ++k) x[k] = load(from + k * plane);
        transpose(x);
        for (int i = 0; i < K; ++i) x[i] = chosen<Back>(characters(x[i]), x[i]);
    }

    // The same for a single vector, where fewer than K are left.
    static void put(Vec x, float* to, int64_t plane) {
        x = characters(chosen<Order>(x, x));
        for (int k = 0; k < K; ++k) std::memcpy(to + k * plane, (const float*)&x + k * KINDS, sizeof(float) * KINDS);
    }
    static Vec take(const float* from, int64_t plane) {
        Vec x;
        for (int k = 0; k < K; ++k) std::memcpy((float*)&x + k * KINDS, from + k * plane, sizeof(float) * KINDS);
        return chosen<Back>(characters(x), x);
    }

  private:
    struct Order {
        static constexpr int of(int i) { return lane(i); }
    };
    struct Back {
        static constexpr int of(int i) { return place(i); }
    };
    template <int BIT>
    struct Partner {
        static constexpr int of(int i) { return i ^ KINDS * BIT; }
        static constexpr bool negative(int i) { return i & KINDS * BIT; }
    };
    // With vectors cut into pieces of `KINDS BIT` lanes: of every two pieces the first (or the second), from a and b in
    // turn.
    template <int BIT, int SECOND>
    struct Pieces {
        static constexpr int of(int i) {
            constexpr int size = KINDS * BIT;
            return i % size + i / (2 * size) * 2 * size + SECOND * size + i / size % 2 * V;
        }
    };

    static Vec characters(Vec x) {
        if constexpr (K > 1) x = x * signs<Partner<1>>(std::make_integer_sequence<int, V>()) + chosen<Partner<1>>(x, x);
        if constexpr (K > 2) x = x * signs<Partner<2>>(std::make_integer_sequence<int, V>()) + chosen<Partner<2>>(x, x);
        return x;
    }

    // Piece k of vector i becomes piece i of vector k.
    static void transpose(Vec (&x)[K]) {
        if constexpr (K > 1)
            for (int i = 0; i < K; i += 2) exchange<1>(x[i], x[i + 1]);
        if constexpr (K > 2)
            for (int i = 0; i < 2; ++i) exchange<2>(x[i], x[i + 2]);
    }
    template <int BIT>
    static void exchange(Vec& a, Vec& b) {
        const Vec first = chosen<Pieces<BIT, 0>>(a, b);
        b = chosen<Pieces<BIT, 1>>(a, b), a = first;
    }
};

// Sums over the K of chi(k) x(k), in place.
template <int K>
void characters_of(float* x) {
    for (int bit = 1; bit < K; bit *= 2)
        for (int k = 0; k < K; ++k)
            if (!(k & bit)) {
                const float sum = x[k] + x[k | bit];
                x[k | bit] = x[k] - x[k | bit], x[k] = sum;
            }
}

// The factor b (in, out) of a product c = a b, packed for it: for each plane, panels of two vectors of columns, the last
// of one if that is enough, padded with zeros.
template <int K>
class Factor {
  public:
    // Element (i, o) of b lies at from + i row + o column.
    Factor(const float* from, int64_t row, int64_t column, int64_t in, int64_t out)
        : in(in / K), out(out / K), size(in / K * padded(out / K)), memory(K * size / V) {
        float* const to = (float*)memory.data();
        for_panels(this->out, [&](int64_t first, auto vectors) {
            const int64_t width = vectors * V, used = std::min(width, this->out - first);
            for (int64_t i = 0; i < this->in; ++i)
                for (int64_t o = 0; o < used; ++o) {
                    float x[K];  // the input with element 0 of each kind; those with the others follow from it
                    for (int k = 0; k < K; ++k)
                        x[k] = from[Lanes<K>::channel(i, 0) * row + Lanes<K>::channel(first + o, k) * column] / K;
                    characters_of<K>(x);
                    for (int k = 0; k < K; ++k) to[k * size + first * this->in + i * width + o] = x[k];
                }
        });
    }

    // c (rows, out) = a (rows, in) times this factor, both in planes; those of c are padded to whole vectors.
    void multiply(const float* a, int64_t a_row, int64_t a_plane, int64_t rows, float* c, int64_t c_row,
                  int64_t c_plane) const {
        for (int k = 0; k < K; ++k) {
            const float* const b = (const float*)memory.data() + k * size;
            for_panels(out, [&](int64_t first, auto vectors) {
                product_rows<vectors>(rows, a + k * a_plane, a_row, 1, b + first * in, vectors * V,
                                      c + k * c_plane + first, c_row, in, false);
            });
        }
    }

  private:
    const int64_t in, out, size;  // of a plane
    std::vector<Vec> memory;
};

// The gradient of a factor (A, B): the sum over rows of products of a channel a and a channel b, kept in `parts` sums
// until it is written. For K > 1 it is the mean over the K elements, and entries that they bring to each other are equal.
template <int K>
class FactorGradient {
  public:
    FactorGradient(int64_t A, int64_t B, int64_t parts)
        : A(A / K),
          B(B / K),
          columns(padded(B / K)),
          parts(parts),
          memory(parts * A * columns / V),
          begun(parts) {}

    // Adds rows of a and b, both in planes, those of b padded to whole vectors.
    void add(int64_t part, const float* a, int64_t a_row, int64_t a_plane, const float* b, int64_t b_row,
             int64_t b_plane, int64_t rows) {
        for (int k = 0; k < K; ++k) {
            float* const c = (float*)memory.data() + (part * K + k) * A * columns;
            for_panels(B, [&](int64_t first, auto vectors) {
                product_rows<vectors>(A, a + k * a_plane, 1, a_row, b + k * b_plane + first, b_row, c + first, columns,
                                      rows, begun[part]);
            });
        }
        begun[part] = true;
    }

    // Writes the sum of all parts; element (a, b) goes to `to` + a row + b column.
    void write(float* to, int64_t row, int64_t column) const {
        const float* const from = (const float*)memory.data();
        for (int64_t a = 0; a < A; ++a)
            for (int64_t b = 0; b < B; ++b) {
                float x[K] = {};
                for (int64_t part = 0; part < parts; ++part)
                    for (int k = 0; k < K; ++k) x[k] += from[((part * K + k) * A + a) * columns + b] / (K * K);
                characters_of<K>(x);
                for (int k = 0; k < K; ++k)
                    for (int l = 0; l < K; ++l)
                        to[Lanes<K>::channel(a, k) * row + Lanes<K>::channel(b, l) * column] = x[k ^ l];
            }
    }

  private:
    const int64_t A, B, columns, parts;
    std::vector<Vec> memory;
    std::vector<char> begun;  // not bool, whose elements share bytes: threads write to neighbours at the same time
};

}  // namespace
