// What follows the backward pass of a training step, float32: gradients are tied and clipped, and AdamW makes its update,
// for all tensors of a network in one call.
//
// Tensors are given by their addresses and taken in the order of memory, which is the same for a weight, its gradient
// and its moments. Sums are added up in a fixed order, so any number of threads gives the same bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t PIECE = 8192;  // numbers that a thread takes at a time; with their moments they fit into its cache

struct Piece {
    int64_t tensor, first, last;
};

// Cuts tensors of the given sizes into pieces of at most `length`, without those that `skip` names.
template <class Skip>
std::vector<Piece> pieces_of(const int64_t* sizes, int64_t tensors, int64_t length, Skip skip) {
    std::vector<Piece> pieces;
    for (int64_t t = 0; t < tensors; ++t)
        for (int64_t first = 0; first < sizes[t] && !skip(t); first += length)
            pieces.push_back({t, first, std::min(sizes[t], first + length)});
    return pieces;
}

// Replaces the numbers of each orbit from `first` to `last` by their mean. `members` (G, orbits) says where they lie.
template <int G>
void tie(float* gradient, const int32_t* members, int64_t orbits, int64_t first, int64_t last) {
    for (int64_t o = first; o < last; ++o) {
        float sum = 0;
        for (int g = 0; g < G; ++g) sum += gradient[members[g * orbits + o]];
        for (int g = 0; g < G; ++g) gradient[members[g * orbits + o]] = sum / G;
    }
}

// Loshchilov & Hutter 2019, algorithm 2. `factor` clips the gradient, `keep` is what decay leaves of a weight, and `rate`
// and `correction` make up for moments that began at 0.
void adamw(float* weight, const float* gradient, float* mean, float* square, int64_t size, float factor, float keep,
           float rate, float first, float second, float correction, float small) {
    for (int64_t i = 0; i < size; ++i) {
        const float g = gradient[i] * factor;
        mean[i] += first * (g - mean[i]);
        square[i] += second * (g * g - square[i]);
        weight[i] = weight[i] * keep - rate * mean[i] / (std::sqrt(square[i]) * correction + small);
    }
}

}  // namespace

extern "C" {

// addresses (6, tensors): of each weight, its gradient (0 if it has none; it then stays), the two moments, its number of
//   updates (a float, as torch keeps it), and the members of its orbits (0 if it has none).
// numbers (2, tensors): how many numbers each weight holds, and how many orbits.
// paces (2, tensors): learning rate and weight decay of each weight.
// settings: beta1, beta2, epsilon, and the largest norm of the gradient, or infinity.
// order: of the group, 2 or 8, if there are orbits.
void update_float32(const int64_t* addresses, const int64_t* numbers, const double* paces, const double* settings,
                    int64_t tensors, int64_t order) {
    const int64_t *const weights = addresses, *const gradients = weights + tensors, *const means = gradients + tensors,
                  *const squares = means + tensors, *const updates = squares + tensors, *const members = updates + tensors;
    const int64_t *const sizes = numbers, *const orbits = sizes + tensors;
    const double *const rates = paces, *const decays = rates + tensors;
    const double beta1 = settings[0], beta2 = settings[1], small = settings[2], largest = settings[3];
    for (int64_t t = 0; t < tensors; ++t)
        if (gradients[t]) ++*(float*)updates[t];
    const auto tied = pieces_of(orbits, tensors, PIECE / order, [=](int64_t t) { return !gradients[t] || !members[t]; });
    const auto pieces = pieces_of(sizes, tensors, PIECE, [=](int64_t t) { return !gradients[t]; });
    std::vector<double> sums(pieces.size());
    float factor = 1.0f;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (size_t i = 0; i < tied.size(); ++i) {
            const Piece p = tied[i];
            (order == 8 ? tie<8> : tie<2>)((float*)gradients[p.tensor], (const int32_t*)members[p.tensor], orbits[p.tensor],
                                           p.first, p.last);
        }
        if (std::isfinite(largest)) {
#pragma omp for schedule(static)
            for (size_t i = 0; i < pieces.size(); ++i) {
                const float* const gradient = (const float*)gradients[pieces[i].tensor];
                float sum = 0;
                for (int64_t k = pieces[i].first; k < pieces[i].last; ++k) sum += gradient[k] * gradient[k];
                sums[i] = sum;
            }
#pragma omp single
            {
                double sum = 0;
                for (double one : sums) sum += one;
                // As torch clips, but written so that NaN stays NaN: a run that diverged must be noticed.
                const double scale = largest / (std::sqrt(sum) + 1e-6);
                factor = scale > 1 ? 1.0f : float(scale);
            }
        }
#pragma omp for schedule(static)
        for (size_t i = 0; i < pieces.size(); ++i) {
            const auto [t, first, last] = pieces[i];
            const double n = *(const float*)updates[t];
            const double rate = rates[t] / (1 - std::pow(beta1, n)), correction = 1 / std::sqrt(1 - std::pow(beta2, n));
            adamw((float*)weights[t] + first, (const float*)gradients[t] + first, (float*)means[t] + first,
                  (float*)squares[t] + first, last - first, factor, float(1 - rates[t] * decays[t]),
                  float(rate), float(1 - beta1), float(1 - beta2), float(correction), float(small));
        }
    }
}
}
