// Augmented training batches: draws, geometry, values, mixing and normalisation in one pass an image.
//
// The plain version is augmentation/augmenter.py, and what is drawn augmentation/draws.py, mixing.py and randomness.py: the
// names here are theirs, and so is the order of everything. An image is worked on by one thread from its stored bytes
// to its place in the batch, in buffers that stay in the cache, so the result depends on neither batch nor threads.
//
// Geometry reads "quads", four interleaved channels a pixel, so that one load fetches all channels of a pixel and the
// arithmetic runs on four lanes; values are changed in planes (C, h*w), where every loop vectorizes by itself.

#include <omp.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

extern "C" {

// Mirrored field by field in augmentation/native_batch.py. Angles in radians; `_low` and `_span` are a range's lower end
// and length, of logarithms where the law is log-uniform.
struct Plan {
    int64_t channels, stored_h, stored_w, height, width;  // of the stored images; of the results
    int64_t stored_type;                                  // 0 uint8, 1 float16, 2 float32
    int64_t bfloat16;                                     // the batch's type: else float32
    int64_t resamples, bicubic, border;                   // border: 0 reflect, 1 edge, 2 zero
    int64_t block_y, block_x, samples_y, samples_x;       // antialiasing
    uint64_t seed;
    int64_t flips, quarter_turns, zooms, crops;
    double flip_horizontal, flip_vertical, rotation, scale_low, scale_span, aspect_low, aspect_span, shear, shift;
    double crop_low, crop_span, ratio_low, ratio_span, ratio_least, ratio_most;
    double brightness, contrast, saturation, hue, noise;
    double erasing, erasing_low, erasing_span, erasing_aspect_low, erasing_aspect_span;
    int64_t erasing_noise;
    int64_t policy_slots, policy_choices;
    const int64_t* policy_places;  // (policy_choices,) numbers of operations
    double policy_magnitude;       // below 0: drawn for each image
    double policy_shear, policy_translate, policy_rotate, policy_enhance, policy_posterize;
    double mixup, cutmix, mix_probability, mix_switch;  // the first two: 1/power of the law, 0 where off
    int64_t beta_nodes;
    const double *mixup_node, *mixup_below, *cutmix_node, *cutmix_below;
    const float *mean, *std;            // (channels,)
    const float* level;                 // (256,) v / 255
    const float *resize_y, *resize_x;   // (height, stored_h), (width, stored_w), where a result is a resized frame
    const int64_t *bounds_y, *bounds_x; // (height, 2), (width, 2): first and end of each row's weights
};
}

namespace {

// -- random numbers: randomness.py ------------------------------------------------------------------------------------

enum Stream : uint32_t { AUGMENT = 1, NOISE = 2, ERASING = 3, MIX = 4 };

inline uint32_t scramble(uint32_t word) {
    word ^= word >> 16;
    word *= 0x21F0AAADu;
    word ^= word >> 15;
    word *= 0x735A2D97u;
    word ^= word >> 15;
    return word;
}

struct Uniforms {
    uint32_t first, second;

    Uniforms(uint64_t seed, uint64_t epoch, int64_t index, uint32_t stream) {
        const uint32_t lanes[2] = {0x243F6A88u, 0x85A308D3u};
        const uint32_t numbers[5] = {uint32_t(seed), uint32_t(seed >> 32), uint32_t(epoch), uint32_t(epoch >> 32), stream};
        uint32_t keys[2];
        for (int lane = 0; lane < 2; ++lane) {
            uint32_t key = lanes[lane];
            for (uint32_t number : numbers) key = scramble(key ^ number);
            key = scramble(key ^ uint32_t(index));
            keys[lane] = scramble(key ^ uint32_t(uint64_t(index) >> 32));
        }
        first = keys[0], second = keys[1];
    }
    float operator()(uint32_t k) const {
        return float(int32_t(scramble(scramble(first + k * 0x9E3779B9u) ^ second) >> 8)) * 0x1p-24f;
    }
};

// Cephes' polynomials; x in (0, 1], not denormal.
inline float logarithm(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    float exponent = float(int32_t(bits >> 23) - 126);
    bits = (bits & 0x007FFFFFu) | 0x3F000000u;
    float m;
    std::memcpy(&m, &bits, 4);
    const bool low = m < 0.70710678f;
    exponent = low ? exponent - 1.0f : exponent;
    m = (low ? m + m : m) - 1.0f;
    const float z = m * m;
    float y = 7.0376836292e-2f;
    for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                    2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
        y = y * m + c;
    y = y * m * z - 2.12194440e-4f * exponent - 0.5f * z;
    return m + y + 0.693359375f * exponent;
}

// Standard normal numbers 0 … count − 1 of an image, by Box and Muller.
void normals(const Uniforms& u, int64_t count, float* out) {
    const int64_t pairs = count / 2;
    auto pair = [&u](uint32_t p, float& even, float& odd) {
        const float radius = std::sqrt(-2.0f * logarithm(1.0f - u(2 * p)));
        const float turn = u(2 * p + 1), quarter = std::rint(4.0f * turn);
        const float a = 6.283185307f * (turn - 0.25f * quarter), z = a * a;  // within ±π/4
        const float sine = a + a * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
        const float cosine = 1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
        const int q = int(quarter) & 3;
        const float c = q & 1 ? sine : cosine, s = q & 1 ? cosine : sine;
        even = radius * (q == 1 || q == 2 ? -c : c);
        odd = radius * (q >= 2 ? -s : s);
    };
    for (int64_t p = 0; p < pairs; ++p) pair(uint32_t(p), out[2 * p], out[2 * p + 1]);
    if (count % 2) {
        float unused;
        pair(uint32_t(pairs), out[count - 1], unused);
    }
}

// -- what is drawn for an image: draws.py -----------------------------------------------------------------------------

enum Operation {
    IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE,
    BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS,
    POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE, INVERT
};

constexpr int TRIES = 10, MOST_OPERATIONS = 8;
enum Column : uint32_t {
    FLIP_HORIZONTAL_U, FLIP_VERTICAL_U, QUARTER_TURNS_U, ROTATION_U, SCALE_U, ASPECT_U, SHEAR_X_U, SHEAR_Y_U,
    SHIFT_X_U, SHIFT_Y_U, CROP_X_U, CROP_Y_U, BRIGHTNESS_U, CONTRAST_U, SATURATION_U, HUE_U, ERASING_U, ERASING_X_U,
    ERASING_Y_U, SINGLE,
    CROP_AREA_U = SINGLE, CROP_RATIO_U = CROP_AREA_U + TRIES, ERASING_AREA_U = CROP_RATIO_U + TRIES,
    ERASING_ASPECT_U = ERASING_AREA_U + TRIES, POLICY_U = ERASING_ASPECT_U + TRIES
};

struct Matrix {  // of an affine map in the plane
    double xx = 1, xy = 0, xt = 0, yx = 0, yy = 1, yt = 0;

    static Matrix rotation(double angle) {
        const double c = std::cos(angle), s = std::sin(angle);
        return {c, s, 0, -s, c, 0};
    }
    void then(const Matrix& m) {  // the product this · m
        *this = {xx * m.xx + xy * m.yx, xx * m.xy + xy * m.yy, xx * m.xt + xy * m.yt + xt,
                 yx * m.xx + yy * m.yx, yx * m.xy + yy * m.yy, yx * m.xt + yy * m.yt + yt};
    }
};

struct Draw {
    Matrix sampling;  // of places in the result in units of half a frame, to places in the stored image in such units
    int flip_x = 1, flip_y = 1, turn = 0;
    int64_t shift_x = 0, shift_y = 0;  // in whole pixels
    float brightness = 1, contrast = 1, saturation = 1, hue = 0;
    int64_t top = 0, bottom = 0, left = 0, right = 0;  // erased
    int operation[MOST_OPERATIONS];
    float strength[MOST_OPERATIONS];
};

Draw draw(const Plan& p, uint64_t epoch, int64_t index) {
    const Uniforms hash(p.seed, epoch, index, AUGMENT);
    auto u = [&hash](uint32_t column) { return double(hash(column)); };
    auto signed_u = [&u](uint32_t column) { return 2.0 * u(column) - 1.0; };
    const double h = double(p.height), w = double(p.width);
    Draw d;
    if (p.flips) {
        d.flip_x = u(FLIP_HORIZONTAL_U) < p.flip_horizontal ? -1 : 1;
        d.flip_y = u(FLIP_VERTICAL_U) < p.flip_vertical ? -1 : 1;
    }
    if (p.quarter_turns) d.turn = int(4.0 * u(QUARTER_TURNS_U));
    const double shift_x = p.shift * signed_u(SHIFT_X_U), shift_y = p.shift * signed_u(SHIFT_Y_U);
    d.shift_x = int64_t(std::rint(shift_x * w)), d.shift_y = int64_t(std::rint(shift_y * h));

    auto around = [&u](double strength, uint32_t column) {
        const double low = std::max(0.0, 1.0 - strength);
        return float(low + (1.0 + strength - low) * u(column));
    };
    if (p.brightness > 0) d.brightness = around(p.brightness, BRIGHTNESS_U);
    if (p.contrast > 0) d.contrast = around(p.contrast, CONTRAST_U);
    if (p.saturation > 0) d.saturation = around(p.saturation, SATURATION_U);
    if (p.hue > 0) d.hue = float(p.hue * signed_u(HUE_U));

    if (p.erasing > 0 && u(ERASING_U) < p.erasing) {
        for (int t = 0; t < TRIES; ++t) {
            const double area = h * w * (p.erasing_low + p.erasing_span * u(ERASING_AREA_U + t));
            const double aspect = std::exp(p.erasing_aspect_low + p.erasing_aspect_span * u(ERASING_ASPECT_U + t));
            const double tall = std::rint(std::sqrt(area * aspect)), wide = std::rint(std::sqrt(area / aspect));
            if (!(tall < h && wide < w)) continue;
            d.top = int64_t(u(ERASING_Y_U) * (h - tall + 1)), d.bottom = d.top + int64_t(tall);
            d.left = int64_t(u(ERASING_X_U) * (w - wide + 1)), d.right = d.left + int64_t(wide);
            break;
        }
    }
    for (int64_t slot = 0; slot < p.policy_slots; ++slot) {
        const uint32_t column = POLICY_U + 3 * uint32_t(slot);
        d.operation[slot] = int(p.policy_places[int64_t(double(p.policy_choices) * u(column))]);
        const double size = p.policy_magnitude < 0 ? u(column + 1) : p.policy_magnitude;
        d.strength[slot] = float(u(column + 2) < 0.5 ? -size : size);
    }
    if (!p.resamples) return d;

    Matrix m;
    double half_x = double(p.stored_w) / 2, half_y = double(p.stored_h) / 2;
    if (p.crops) {
        const double frame = w / h;
        double wide = std::min(1.0, p.ratio_most / frame), tall = std::min(1.0, frame / p.ratio_least);
        double at_x = 0.5, at_y = 0.5;
        for (int t = 0; t < TRIES; ++t) {
            const double area = p.crop_low + p.crop_span * u(CROP_AREA_U + t);
            const double ratio = std::exp(p.ratio_low + p.ratio_span * u(CROP_RATIO_U + t));
            const double x = std::sqrt(area * ratio / frame), y = std::sqrt(area / ratio * frame);
            if (!(x <= 1.0 && y <= 1.0)) continue;
            wide = x, tall = y, at_x = u(CROP_X_U), at_y = u(CROP_Y_U);
            break;
        }
        const double x = wide / 2 + at_x * (1.0 - wide), y = tall / 2 + at_y * (1.0 - tall);
        half_x *= wide, half_y *= tall;
        m = {wide, 0, 2.0 * x - 1.0, 0, tall, 2.0 * y - 1.0};
    }
    m.then({double(d.flip_x), 0, 0, 0, double(d.flip_y), 0});
    const double turn_cos = (1 - d.turn) * (1 - d.turn % 2), turn_sin = (2 - d.turn) * (d.turn % 2);
    m.then({turn_cos, turn_sin, 0, -turn_sin, turn_cos, 0});
    m.then({1.0 / half_x, 0, 0, 0, 1.0 / half_y, 0});
    if (p.zooms) {
        const double zoom = std::exp(p.scale_low + p.scale_span * u(SCALE_U));
        const double stretch = std::exp(p.aspect_low + p.aspect_span * u(ASPECT_U));
        m.then({1.0 / (zoom * stretch), 0, 0, 0, 1.0 / (zoom / stretch), 0});
    }
    if (p.shear > 0) {
        m.then({1, -std::tan(p.shear * signed_u(SHEAR_X_U)), 0, 0, 1, 0});
        m.then({1, 0, 0, -std::tan(p.shear * signed_u(SHEAR_Y_U)), 1, 0});
    }
    if (p.rotation > 0) m.then(Matrix::rotation(p.rotation * signed_u(ROTATION_U)));
    const double stored_w = double(p.stored_w), stored_h = double(p.stored_h);
    if (p.shift > 0) m.then({1, 0, -stored_w * shift_x, 0, 1, -stored_h * shift_y});
    for (int64_t slot = 0; slot < p.policy_slots; ++slot) {
        // The strength as float64: what is drawn is rounded to float32 for changes of values alone.
        const uint32_t column = POLICY_U + 3 * uint32_t(slot);
        const double size = p.policy_magnitude < 0 ? u(column + 1) : p.policy_magnitude;
        const double v = u(column + 2) < 0.5 ? -size : size;
        switch (d.operation[slot]) {
            case SHEAR_X: m.then({1, -p.policy_shear * v, 0, 0, 1, 0}); break;
            case SHEAR_Y: m.then({1, 0, 0, -p.policy_shear * v, 1, 0}); break;
            case TRANSLATE_X: m.then({1, 0, -p.policy_translate * stored_w * v, 0, 1, 0}); break;
            case TRANSLATE_Y: m.then({1, 0, 0, 0, 1, -p.policy_translate * stored_h * v}); break;
            case ROTATE: m.then(Matrix::rotation(p.policy_rotate * v)); break;
            default: break;
        }
    }
    m.then({half_x, 0, 0, 0, half_y, 0});
    d.sampling = m;
    return d;
}

struct MixDraw {
    float blend = 1, own = 1;
    int64_t top = 0, bottom = 0, left = 0, right = 0;
};

float quantile(double u, double exponent, const double* node, const double* below, int64_t nodes) {
    const double tail = std::min(u, 1.0 - u);
    const int64_t right = std::clamp<int64_t>(std::upper_bound(below, below + nodes, tail) - below, 1, nodes - 1);
    const double part = (tail - below[right - 1]) / (below[right] - below[right - 1]);
    const double x = std::pow(node[right - 1] + part * (node[right] - node[right - 1]), exponent);
    return float(u > 0.5 ? 1.0 - x : x);
}

MixDraw draw_mix(const Plan& p, uint64_t epoch, int64_t index) {
    const Uniforms u(p.seed, epoch, index, MIX);
    MixDraw d;
    if (!(u(0) < float(p.mix_probability))) return d;
    if (!(u(1) < float(p.mix_switch))) {
        d.blend = d.own = quantile(u(2), p.mixup, p.mixup_node, p.mixup_below, p.beta_nodes);
        return d;
    }
    const float side = std::sqrt(1.0f - quantile(u(2), p.cutmix, p.cutmix_node, p.cutmix_below, p.beta_nodes));
    auto ends = [side](float place, int64_t extent, int64_t& low, int64_t& high) {
        const int64_t length = int64_t(side * float(extent)), centre = int64_t(place * float(extent));
        low = std::max<int64_t>(centre - length / 2, 0);
        high = std::min(centre + (length + 1) / 2, extent);
    };
    ends(u(3), p.height, d.top, d.bottom);
    ends(u(4), p.width, d.left, d.right);
    d.own = 1.0f - float((d.bottom - d.top) * (d.right - d.left)) / float(p.height * p.width);
    return d;
}

// -- geometry ---------------------------------------------------------------------------------------------------------

typedef float Quad __attribute__((vector_size(16)));

inline Quad load(const float* at) {
    Quad q;
    std::memcpy(&q, at, 16);
    return q;
}

inline Quad load(const uint8_t* at) {
#ifdef __SSE4_1__  // GCC 12 makes this of the code below, channel by channel: half of the speed of the whole
    int32_t bytes;
    std::memcpy(&bytes, at, 4);
    return Quad(_mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes))));
#else
    return Quad{float(at[0]), float(at[1]), float(at[2]), float(at[3])};
#endif
}

inline float value(uint8_t v) { return float(v); }
inline float value(float v) { return v; }
inline float value(_Float16 v) { return float(v); }

// Room for one image and what is made of it; a thread keeps its own from batch to batch.
struct Room {
    std::vector<uint8_t> bytes;                     // the stored image as quads, of uint8 …
    std::vector<float> floats;                      // … or of float32
    std::vector<float> planes[2], spare, rows, at;  // results; a buffer of as many values; one row; positions
    std::vector<int32_t> places, column, row;

    template <class T>
    static T* of(std::vector<T>& buffer, size_t n) {
        if (buffer.size() < n) buffer.resize(n);
        return buffer.data();
    }
};

// Four channels of a (C, H, W) image, from `first` on, as quads of H + 1 rows of W + 1 pixels; the last row and column
// are 0, for a border of zeros to be read from.
template <class S, class Q>
void pack(const S* image, int64_t channels, int64_t first, int64_t height, int64_t width, Q* quads) {
    const int64_t many = std::min<int64_t>(4, channels - first), stride = width + 1;
    const S* plane[4];
    for (int c = 0; c < 4; ++c) plane[c] = image + (first + std::min<int64_t>(c, many - 1)) * height * width;
    for (int64_t y = 0; y < height; ++y) {
        Q* to = quads + 4 * stride * y;
        const S *a = plane[0] + y * width, *b = plane[1] + y * width, *c = plane[2] + y * width, *d = plane[3] + y * width;
        for (int64_t x = 0; x < width; ++x) {
            to[4 * x] = Q(a[x]), to[4 * x + 1] = Q(b[x]), to[4 * x + 2] = Q(c[x]), to[4 * x + 3] = Q(d[x]);
        }
        for (int c4 = 0; c4 < 4; ++c4) to[4 * width + c4] = 0;
    }
    std::fill_n(quads + 4 * stride * height, 4 * stride, Q(0));
}

// The same of the means over blocks, as adaptive pooling to (height / block_y, width / block_x) makes them.
template <class S>
void pack_means(const S* image, int64_t channels, int64_t first, int64_t height, int64_t width, int64_t block_y,
                int64_t block_x, float* quads) {
    const int64_t rows = height / block_y, columns = width / block_x, stride = columns + 1;
    std::fill_n(quads, 4 * stride * (rows + 1), 0.0f);
    for (int64_t c = 0; c < std::min<int64_t>(4, channels - first); ++c) {
        const S* plane = image + (first + c) * height * width;
        for (int64_t y = 0; y < rows; ++y) {
            const int64_t top = y * height / rows, bottom = ((y + 1) * height + rows - 1) / rows;
            for (int64_t x = 0; x < columns; ++x) {
                const int64_t left = x * width / columns, right = ((x + 1) * width + columns - 1) / columns;
                float sum = 0;
                for (int64_t r = top; r < bottom; ++r)
                    for (int64_t k = left; k < right; ++k) sum += value(plane[r * width + k]);
                quads[4 * (stride * y + x) + c] = sum / float((bottom - top) * (right - left));
            }
        }
    }
}

// Where a tap at `i` outside of 0 … n − 1 is read; n is a place of zeros.
inline int64_t inside(int64_t i, int64_t n, int64_t border) {
    if (i >= 0 && i < n) return i;
    if (border == 2) return n;
    if (border == 1) return i < 0 ? 0 : n - 1;
    const int64_t m = ((i % (2 * n)) + 2 * n) % (2 * n);
    return m < n ? m : 2 * n - 1 - m;
}

inline void cubic(float t, float w[4]) {  // A = −0.75, as torch's grid_sample
    const float a = -0.75f, s = 1.0f - t, t1 = t + 1.0f, s1 = s + 1.0f;
    w[0] = ((a * t1 - 5.0f * a) * t1 + 8.0f * a) * t1 - 4.0f * a;
    w[1] = ((a + 2.0f) * t - (a + 3.0f)) * t * t + 1.0f;
    w[2] = ((a + 2.0f) * s - (a + 3.0f)) * s * s + 1.0f;
    w[3] = ((a * s1 - 5.0f * a) * s1 + 8.0f * a) * s1 - 4.0f * a;
}

// `grid_sample` of quads (height, width) along the drawn matrix into planes; several samples a pixel are averaged.
template <class Q, bool BICUBIC>
void sample(const Plan& p, const Matrix& matrix, const Q* quads, int64_t height, int64_t width, int64_t many, float scale,
            Room& room, float* planes) {
    const float xx = float(matrix.xx), xy = float(matrix.xy), xt = float(matrix.xt);
    const float yx = float(matrix.yx), yy = float(matrix.yy), yt = float(matrix.yt);
    const int64_t fine_h = p.height * p.samples_y, fine_w = p.width * p.samples_x, pixels = p.height * p.width;
    const float half_w = float(width) / 2, half_h = float(height) / 2;

    // The taps' columns and rows, over the whole range that the frame's corners span: no pixel asks where it lies.
    const float reach_x = std::fabs(xx) + std::fabs(xy), reach_y = std::fabs(yx) + std::fabs(yy);
    const int64_t from_x = int64_t(std::floor((xt - reach_x + 1) * half_w)) - 4;
    const int64_t from_y = int64_t(std::floor((yt - reach_y + 1) * half_h)) - 4;
    const int64_t span_x = int64_t(std::ceil((xt + reach_x + 1) * half_w)) + 5 - from_x;
    const int64_t span_y = int64_t(std::ceil((yt + reach_y + 1) * half_h)) + 5 - from_y;
    int32_t* column = Room::of(room.column, size_t(span_x));
    int32_t* row = Room::of(room.row, size_t(span_y));
    for (int64_t i = 0; i < span_x; ++i) column[i] = int32_t(4 * inside(from_x + i, width, p.border));
    for (int64_t i = 0; i < span_y; ++i) row[i] = int32_t(4 * (width + 1) * inside(from_y + i, height, p.border));

    float* at = Room::of(room.at, size_t(3 * fine_w));
    float *part_x = at, *part_y = at + fine_w, *across = at + 2 * fine_w;
    int32_t* places = Room::of(room.places, size_t(2 * fine_w));
    int32_t *place_x = places, *place_y = places + fine_w;
    float* sums = Room::of(room.rows, size_t(4 * fine_w + 4 * p.width));
    float* taken = sums + 4 * p.width;
    for (int64_t k = 0; k < fine_w; ++k) across[k] = (2.0f * float(k) + 1.0f - float(fine_w)) / float(fine_w);
    const int32_t first_x = int32_t(from_x), first_y = int32_t(from_y);
    const float norm = scale / float(p.samples_y * p.samples_x);

    for (int64_t y = 0; y < p.height; ++y) {
        for (int64_t j = 0; j < p.samples_y; ++j) {
            const float down = (2.0f * float(y * p.samples_y + j) + 1.0f - float(fine_h)) / float(fine_h);
            const float down_x = xy * down + xt, down_y = yy * down + yt;
            for (int64_t k = 0; k < fine_w; ++k) {
                const float x = (down_x + xx * across[k] + 1.0f) * half_w - 0.5f;
                const float v = (down_y + yx * across[k] + 1.0f) * half_h - 0.5f;
                const float whole_x = std::floor(x), whole_y = std::floor(v);
                part_x[k] = x - whole_x, part_y[k] = v - whole_y;
                place_x[k] = int32_t(whole_x) - first_x, place_y[k] = int32_t(whole_y) - first_y;
            }
            for (int64_t k = 0; k < fine_w; ++k) {
                const int32_t *cx = column + place_x[k], *ry = row + place_y[k];
                Quad v;
                if constexpr (BICUBIC) {
                    float wx[4], wy[4];
                    cubic(part_x[k], wx), cubic(part_y[k], wy);
                    v = Quad{0, 0, 0, 0};
                    for (int r = 0; r < 4; ++r) {
                        const Q* line = quads + ry[r - 1];
                        v += wy[r] * (wx[0] * load(line + cx[-1]) + wx[1] * load(line + cx[0]) +
                                      wx[2] * load(line + cx[1]) + wx[3] * load(line + cx[2]));
                    }
                } else {
                    const Q *upper = quads + ry[0], *lower = quads + ry[1];
                    const Quad a = load(upper + cx[0]), b = load(upper + cx[1]);
                    const Quad c = load(lower + cx[0]), d = load(lower + cx[1]);
                    const Quad above = a + (b - a) * part_x[k], below = c + (d - c) * part_x[k];
                    v = above + (below - above) * part_y[k];
                }
                std::memcpy(taken + 4 * k, &v, 16);
            }
            if (p.samples_x > 1 || p.samples_y > 1) {
                if (j == 0) std::fill_n(sums, 4 * p.width, 0.0f);
                for (int64_t x = 0; x < p.width; ++x)
                    for (int64_t i = 0; i < p.samples_x; ++i)
                        for (int c = 0; c < 4; ++c) sums[4 * x + c] += taken[4 * (x * p.samples_x + i) + c];
            }
        }
        const float* done = p.samples_x > 1 || p.samples_y > 1 ? sums : taken;
        for (int64_t c = 0; c < many; ++c) {
            float* to = planes + c * pixels + y * p.width;
            for (int64_t x = 0; x < p.width; ++x) to[x] = done[4 * x + c] * norm;
        }
    }
}

template <class S>
void resample(const Plan& p, const Draw& d, const S* image, float scale, Room& room, float* planes) {
    const int64_t height = p.stored_h / p.block_y, width = p.stored_w / p.block_x;
    const size_t quads = size_t(4 * (height + 1) * (width + 1));
    for (int64_t first = 0; first < p.channels; first += 4) {
        const int64_t many = std::min<int64_t>(4, p.channels - first);
        float* to = planes + first * p.height * p.width;
        if constexpr (sizeof(S) == 1) {
            if (p.block_y == 1 && p.block_x == 1) {
                uint8_t* packed = Room::of(room.bytes, quads);
                pack(image, p.channels, first, height, width, packed);
                if (p.bicubic) sample<uint8_t, true>(p, d.sampling, packed, height, width, many, scale, room, to);
                else sample<uint8_t, false>(p, d.sampling, packed, height, width, many, scale, room, to);
                continue;
            }
        }
        float* packed = Room::of(room.floats, quads);
        if (p.block_y == 1 && p.block_x == 1) pack(image, p.channels, first, height, width, packed);
        else pack_means(image, p.channels, first, p.stored_h, p.stored_w, p.block_y, p.block_x, packed);
        if (p.bicubic) sample<float, true>(p, d.sampling, packed, height, width, many, scale, room, to);
        else sample<float, false>(p, d.sampling, packed, height, width, many, scale, room, to);
    }
}

// The frame resized by the weights of an antialiasing filter, (C, h, w) in the unit of the store.
template <class S>
void resize(const Plan& p, const S* image, Room& room, float* out) {
    float* line = Room::of(room.rows, size_t(p.stored_w));
    for (int64_t c = 0; c < p.channels; ++c) {
        const S* plane = image + c * p.stored_h * p.stored_w;
        for (int64_t y = 0; y < p.height; ++y) {
            std::fill_n(line, p.stored_w, 0.0f);
            for (int64_t r = p.bounds_y[2 * y]; r < p.bounds_y[2 * y + 1]; ++r) {
                const float weight = p.resize_y[y * p.stored_h + r];
                for (int64_t k = 0; k < p.stored_w; ++k) line[k] += weight * value(plane[r * p.stored_w + k]);
            }
            for (int64_t x = 0; x < p.width; ++x) {
                const float* weight = p.resize_x + x * p.stored_w;
                float sum = 0;
                for (int64_t k = p.bounds_x[2 * x]; k < p.bounds_x[2 * x + 1]; ++k) sum += weight[k] * line[k];
                out[(c * p.height + y) * p.width + x] = sum;
            }
        }
    }
}

inline float stored_value(uint8_t v, const float* level) { return level[v]; }
inline float stored_value(float v, const float*) { return v; }
inline float stored_value(_Float16 v, const float*) { return float(v); }

// Flips, quarter turns and shifts by whole pixels of a frame (C, h, w), exactly. Twice the distance from the centre is
// a whole number, and a flip and a turn are whole-number matrices.
template <class S>
void rearrange(const Plan& p, const Draw& d, const S* image, Room& room, float* planes) {
    const int64_t h = p.height, w = p.width;
    const int64_t turn_cos = (1 - d.turn) * (1 - d.turn % 2), turn_sin = (2 - d.turn) * (d.turn % 2);
    const int64_t per_across = d.flip_x * turn_cos - d.flip_y * turn_sin * w;
    const int64_t per_down = d.flip_x * turn_sin + d.flip_y * turn_cos * w;
    constexpr int32_t nowhere = std::numeric_limits<int32_t>::min();
    int32_t* across = Room::of(room.column, size_t(w));
    for (int64_t x = 0; x < w; ++x) {
        const int64_t from = inside(x - d.shift_x, w, p.border);
        across[x] = p.border == 2 && from == w ? nowhere : int32_t(per_across * (2 * from - (w - 1)));
    }
    for (int64_t y = 0; y < h; ++y) {
        const int64_t from = inside(y - d.shift_y, h, p.border);
        const bool empty = p.border == 2 && from == h;
        const int32_t down = int32_t(per_down * (2 * from - (h - 1)) + h * w - 1);
        for (int64_t c = 0; c < p.channels; ++c) {
            float* to = planes + (c * h + y) * w;
            const S* plane = image + c * h * w;
            if (empty) std::fill_n(to, w, 0.0f);
            else if (p.border != 2)
                for (int64_t x = 0; x < w; ++x) to[x] = stored_value(plane[(down + across[x]) >> 1], p.level);
            else
                for (int64_t x = 0; x < w; ++x)
                    to[x] = across[x] == nowhere ? 0.0f : stored_value(plane[(down + across[x]) >> 1], p.level);
        }
    }
}

// -- values: colour.py ------------------------------------------------------------------------------------------------

struct Range {  // of an image's values: [0, 1] for uint8, else without ends
    float low, high;
    float clip(float x) const { return x < low ? low : x > high ? high : x; }  // NaN stays
};

struct Planes {
    float* x;
    int64_t channels, height, width;
    Range range;
    Room& room;

    int64_t pixels() const { return height * width; }
    float* plane(int64_t c) const { return x + c * pixels(); }

    template <class F>
    void each(F change) const {
        const int64_t n = channels * pixels();
        for (int64_t i = 0; i < n; ++i) x[i] = range.clip(change(x[i]));
    }
    void clip() const {
        each([](float v) { return v; });
    }
    float mean(int64_t c) const {
        const float* from = plane(c);
        float sum = 0;
        for (int64_t i = 0; i < pixels(); ++i) sum += from[i];
        return sum / float(pixels());
    }
    float weight(int64_t c) const {
        constexpr float luminance[3] = {0.299f, 0.587f, 0.114f};
        return channels == 3 ? luminance[c] : 1.0f / float(channels);
    }
    void adjust(float brightness, float contrast, float saturation) const {
        float offset = 0;
        if (contrast != 1.0f) {
            for (int64_t c = 0; c < channels; ++c) offset += mean(c) * weight(c);
            offset *= (1.0f - contrast) * brightness;
        }
        const float factor = brightness * contrast;
        if (saturation == 1.0f) return each([=](float v) { return v * factor + offset; });
        const float own = saturation * factor, grey = (1.0f - saturation) * factor;
        float *red = plane(0), *green = plane(1), *blue = plane(2);
        for (int64_t i = 0; i < pixels(); ++i) {
            const float r = red[i], g = green[i], b = blue[i];
            const float add = grey * (0.299f * r + 0.587f * g + 0.114f * b) + offset;
            red[i] = range.clip(own * r + add), green[i] = range.clip(own * g + add), blue[i] = range.clip(own * b + add);
        }
    }
    void turn_hue(float turn) const {
        float *red = plane(0), *green = plane(1), *blue = plane(2);
        for (int64_t i = 0; i < pixels(); ++i) {
            const float r = red[i], g = green[i], b = blue[i];
            const float most = std::max(r, std::max(g, b)), chroma = most - std::min(r, std::min(g, b));
            const float difference = most == r ? g - b : most == g ? b - r : r - g;
            const float corner = most == r ? 0.0f : most == g ? 2.0f : 4.0f;
            const float sixths = difference / std::max(chroma, 1.17549435e-38f) + corner + 6.0f * turn;
            auto turned = [=](float home) {
                float k = home + sixths;
                k -= 6.0f * std::floor(k * (1.0f / 6.0f));
                const float near = std::min(k, 4.0f - k);
                return range.clip(most - chroma * (near < 0.0f ? 0.0f : near > 1.0f ? 1.0f : near));
            };
            red[i] = turned(5.0f), green[i] = turned(3.0f), blue[i] = turned(1.0f);
        }
    }
    void sharpen(float strength) const {
        if (std::min(height, width) < 3) return;
        float* old = Room::of(room.spare, size_t(pixels()));
        for (int64_t c = 0; c < channels; ++c) {
            float* to = plane(c);
            std::memcpy(old, to, size_t(pixels()) * 4);
            for (int64_t y = 1; y < height - 1; ++y) {
                const float *above = old + (y - 1) * width, *row = above + width, *below = row + width;
                float* out = to + y * width;
                for (int64_t k = 1; k < width - 1; ++k) {
                    const float smooth = (above[k - 1] + above[k] + above[k + 1] + row[k - 1] + 5.0f * row[k] +
                                          row[k + 1] + below[k - 1] + below[k] + below[k + 1]) * (1.0f / 13.0f);
                    out[k] = smooth + (row[k] - smooth) * strength;
                }
            }
        }
        clip();
    }
    static float level(float v) {
        const float l = std::rint(v * 255.0f);
        return l < 0.0f ? 0.0f : l > 255.0f ? 255.0f : l;
    }
    void posterize(float dropped) const {
        const float step = std::exp2(dropped), inverse = std::exp2(-dropped);
        each([=](float v) { return std::floor(level(v) * inverse) * step * (1.0f / 255.0f); });
    }
    void autocontrast() const {
        for (int64_t c = 0; c < channels; ++c) {
            float* to = plane(c);
            float low = to[0], high = to[0];
            for (int64_t i = 0; i < pixels(); ++i) low = std::min(low, to[i]), high = std::max(high, to[i]);
            const float span = high - low;
            if (span > 0)
                for (int64_t i = 0; i < pixels(); ++i) to[i] = range.clip((to[i] - low) / span);
        }
    }
    void equalize() const {
        uint8_t* levels = reinterpret_cast<uint8_t*>(Room::of(room.spare, size_t(pixels())));
        for (int64_t c = 0; c < channels; ++c) {
            float* to = plane(c);
            int64_t count[256] = {};
            for (int64_t i = 0; i < pixels(); ++i) levels[i] = uint8_t(int32_t(level(to[i])));
            for (int64_t i = 0; i < pixels(); ++i) ++count[levels[i]];
            int64_t last = 255;
            while (count[last] == 0) --last;
            const int64_t step = (pixels() - count[last]) / 255;
            if (step == 0) continue;  // too few levels
            float table[256];
            int64_t below = 0;
            for (int l = 0; l < 256; ++l) {
                table[l] = float(std::min<int64_t>((below + step / 2) / step, 255)) * (1.0f / 255.0f);
                below += count[l];
            }
            for (int64_t i = 0; i < pixels(); ++i) to[i] = table[levels[i]];
        }
    }
    void apply(const Plan& p, int operation, float v) const {
        const float enhanced = 1.0f + float(p.policy_enhance) * v, size = std::fabs(v);
        switch (operation) {
            case BRIGHTNESS: return adjust(enhanced, 1, 1);
            case CONTRAST: return adjust(1, enhanced, 1);
            case SATURATION: return adjust(1, 1, enhanced);
            case SHARPNESS: return sharpen(enhanced);
            case POSTERIZE: return posterize(std::rint(float(p.policy_posterize) * size));
            case SOLARIZE: return each([=](float x) { return x >= 1.0f - size ? 1.0f - x : x; });
            case AUTOCONTRAST: return autocontrast();
            case EQUALIZE: return equalize();
            case INVERT: return each([](float x) { return 1.0f - x; });
            default: return;
        }
    }
    void erase(const Plan& p, const Draw& d, uint64_t epoch, int64_t index) const {
        const float* noise = nullptr;
        if (p.erasing_noise) {
            float* made = Room::of(room.spare, size_t(channels * pixels()));
            normals(Uniforms(p.seed, epoch, index, ERASING), channels * pixels(), made);
            noise = made;
        }
        for (int64_t c = 0; c < channels; ++c) {
            float* to = plane(c);
            const float middle = mean(c);
            float spread = 0;
            if (noise) {
                for (int64_t i = 0; i < pixels(); ++i) spread += (to[i] - middle) * (to[i] - middle);
                spread = std::sqrt(spread / float(pixels()));
            }
            for (int64_t y = d.top; y < d.bottom; ++y)
                for (int64_t k = d.left; k < d.right; ++k) {
                    const int64_t i = y * width + k;
                    to[i] = noise ? range.clip(middle + spread * noise[c * pixels() + i]) : middle;
                }
        }
    }
};

// -- an image, a batch ------------------------------------------------------------------------------------------------

template <class S>
void transform(const Plan& p, uint64_t epoch, int64_t index, const S* image, Room& room, float* out) {
    const Draw d = draw(p, epoch, index);
    constexpr bool integer = sizeof(S) == 1;
    constexpr float infinite = std::numeric_limits<float>::infinity();
    const Planes planes{out, p.channels, p.height, p.width, integer ? Range{0, 1} : Range{-infinite, infinite}, room};
    bool clipped = !integer;
    if (p.resamples) {
        resample(p, d, image, integer ? 1.0f / 255.0f : 1.0f, room, out);
    } else if (p.resize_y) {
        float* resized = Room::of(room.floats, size_t(p.channels * p.height * p.width));
        resize(p, image, room, resized);
        rearrange(p, d, resized, room, out);
        if (integer) {
            const int64_t n = p.channels * p.height * p.width;
            for (int64_t i = 0; i < n; ++i) out[i] *= 1.0f / 255.0f;
        }
    } else {
        rearrange(p, d, image, room, out);
        clipped = true;
    }
    if (p.brightness > 0 || p.contrast > 0 || p.saturation > 0) {
        planes.adjust(d.brightness, d.contrast, d.saturation);
        clipped = true;
    }
    if (!clipped) planes.clip();  // even a bilinear mean may end a rounding above 1
    if (p.hue > 0) planes.turn_hue(d.hue);
    for (int64_t slot = 0; slot < p.policy_slots; ++slot) planes.apply(p, d.operation[slot], d.strength[slot]);
    if (p.noise > 0) {
        const int64_t n = p.channels * p.height * p.width;
        float* noise = Room::of(room.spare, size_t(n));
        normals(Uniforms(p.seed, epoch, index, NOISE), n, noise);
        const float strength = float(p.noise);
        for (int64_t i = 0; i < n; ++i) out[i] = planes.range.clip(out[i] + strength * noise[i]);
    }
    if (d.bottom > d.top) planes.erase(p, d, epoch, index);
}

void mix(const Plan& p, const MixDraw& d, float* own, const float* partner) {
    if (d.blend != 1.0f) {
        const int64_t n = p.channels * p.height * p.width;
        const float a = d.blend;
        for (int64_t i = 0; i < n; ++i)
            own[i] = a < 0.5f ? partner[i] + a * (own[i] - partner[i]) : own[i] - (own[i] - partner[i]) * (1.0f - a);
    }
    for (int64_t c = 0; c < p.channels && d.right > d.left; ++c)
        for (int64_t y = d.top; y < d.bottom; ++y) {
            const int64_t start = (c * p.height + y) * p.width + d.left;
            std::memcpy(own + start, partner + start, size_t(d.right - d.left) * 4);
        }
}

inline void put(float v, float* to) { *to = v; }
inline void put(float v, uint16_t* to) {  // bfloat16, to the nearest even
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    *to = uint16_t((bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x40u : rounded);
}

template <class T, int CHANNELS>
void interleave(const Plan& p, const float* planes, T* out) {
    const int64_t pixels = p.height * p.width, channels = CHANNELS ? CHANNELS : p.channels;
    if constexpr (CHANNELS == 3) {
        const float m0 = p.mean[0], m1 = p.mean[1], m2 = p.mean[2];
        const float s0 = 1.0f / p.std[0], s1 = 1.0f / p.std[1], s2 = 1.0f / p.std[2];
        const float *a = planes, *b = planes + pixels, *c = planes + 2 * pixels;
        for (int64_t i = 0; i < pixels; ++i) {
            put((a[i] - m0) * s0, out + 3 * i), put((b[i] - m1) * s1, out + 3 * i + 1), put((c[i] - m2) * s2, out + 3 * i + 2);
        }
    } else {
        for (int64_t c = 0; c < channels; ++c) {
            const float m = p.mean[c], s = 1.0f / p.std[c];
            const float* from = planes + c * pixels;
            for (int64_t i = 0; i < pixels; ++i) put((from[i] - m) * s, out + channels * i + c);
        }
    }
}

template <class T>
void write(const Plan& p, const float* planes, T* out) {
    if (p.channels == 3) interleave<T, 3>(p, planes, out);
    else if (p.channels == 1) interleave<T, 1>(p, planes, out);
    else interleave<T, 0>(p, planes, out);
}

template <class S, class T>
void batch(const Plan& p, const S* stored, const int64_t* rows, const int64_t* index, int64_t n, uint64_t epoch,
           const int64_t* labels, int64_t classes, T* x, float* y, int threads) {
    const bool mixes = p.mix_probability > 0 && (p.mixup > 0 || p.cutmix > 0);
    const int64_t stored_values = p.channels * p.stored_h * p.stored_w, values = p.channels * p.height * p.width;
#pragma omp parallel num_threads(threads)
    {
        thread_local Room room;
        const int64_t many = omp_get_num_threads(), me = omp_get_thread_num();
        const int64_t from = n * me / many, to = n * (me + 1) / many;
        float* now = Room::of(room.planes[0], size_t(values));
        float* next = Room::of(room.planes[1], size_t(values));
        auto made = [&](int64_t i, float* out) { transform(p, epoch, index[i], stored + rows[i] * stored_values, room, out); };
        if (mixes && from < to) made(from, now);
        for (int64_t i = from; i < to; ++i) {
            MixDraw d;
            if (mixes) {
                made(i + 1, next);
                d = draw_mix(p, epoch, index[i]);
                mix(p, d, now, next);
            } else {
                made(i, now);
            }
            write(p, now, x + i * values);
            std::swap(now, next);
            float* target = y + i * classes;
            std::fill_n(target, classes, 0.0f);
            target[labels[i]] += d.own;
            if (mixes) target[labels[i + 1]] += 1.0f - d.own;
        }
    }
}

template <class S>
void batch_of(const Plan& p, const void* stored, const int64_t* rows, const int64_t* index, int64_t n, uint64_t epoch,
              const int64_t* labels, int64_t classes, void* x, float* y, int threads) {
    const S* images = static_cast<const S*>(stored);
    if (p.bfloat16) batch(p, images, rows, index, n, epoch, labels, classes, static_cast<uint16_t*>(x), y, threads);
    else batch(p, images, rows, index, n, epoch, labels, classes, static_cast<float*>(x), y, threads);
}

}  // namespace

extern "C" {

int64_t augment_plan_bytes() { return sizeof(Plan); }

// A batch of n images: (n, h, w, C) to `x`, (n, classes) to `y`. With mixing `rows`, `index` and `labels` hold one more
// entry, the partner of the last image; image i is mixed with image i + 1.
void augment_batch(const Plan* plan, const void* stored, const int64_t* rows, const int64_t* index, int64_t n,
                   uint64_t epoch, const int64_t* labels, int64_t classes, void* x, float* y, int threads) {
    if (plan->stored_type == 0) batch_of<uint8_t>(*plan, stored, rows, index, n, epoch, labels, classes, x, y, threads);
    else if (plan->stored_type == 1) batch_of<_Float16>(*plan, stored, rows, index, n, epoch, labels, classes, x, y, threads);
    else batch_of<float>(*plan, stored, rows, index, n, epoch, labels, classes, x, y, threads);
}
}
