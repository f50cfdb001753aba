// float32 as three bfloat16, multiplied on AMX tiles (contract: cpu/kernels_split.h).
//
// Eight tiles: 2 x 2 sums, two row tiles, two column tiles; 32 rows x 32 columns. A step of six products
// is 24 multiplications of 16 cycles and, in this order of parts, 14 loads of 8:
//   rows h  columns l, m | rows m  columns m, h | rows h, l  columns h
#include "cpu/kernels_split.h"
#include "cpu/tiles/split_parts.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::GemmTile;
using fastconv::cpu::kSplitLines;
using fastconv::cpu::kSplitPartBytes;
using fastconv::cpu::kSplitStep;
using fastconv::cpu::kSplitTileBytes;
using fastconv::cpu::SplitKernels;
using fastconv::cpu::SplitProduct;
using fastconv::cpu::SplitResults;
using fastconv::cpu::SplitRows;
using fastconv::cpu::SplitRun;

#if defined(__AMX_BF16__)

/// Goes through units of rows being split.
class RowCursor {
public:
    FC_INLINE RowCursor(SplitRows* rows, std::int64_t begin, std::int64_t end) : left_(end - begin) {
        if (left_ <= 0) return;
        rows_ = rows;
        run_ = rows->runs;
        for (; begin >= rows->count * run_->steps; ++run_) begin -= rows->count * run_->steps;
        row_ = begin / run_->steps;
        begin_row(begin % run_->steps);
    }

    FC_INLINE std::int64_t left() const { return left_; }

    FC_INLINE void split_next() {
        split(_mm512_loadu_ps(from_), _mm512_loadu_ps(from_ + 16), line_, range_);
        from_ += kSplitStep;
        line_ += kSplitTileBytes;
        --left_;
        if (--steps_ > 0) return;
        end_row();
        if (++row_ == rows_->count) {
            row_ = 0;
            ++run_;
        }
        if (left_ > 0) begin_row(0);
    }

    /// Before another cursor goes on.
    FC_INLINE void end_row() {
        if (rows_ && !range_.fits(fastconv::cpu::kSplitSmallestRow)) rows_->raw |= 1u << row_;
        range_ = Range{};
    }

private:
    FC_INLINE void begin_row(std::int64_t step) {
        from_ = run_->rows[row_] + run_->offset + step * kSplitStep;
        line_ = rows_->tiles + row_ / kSplitLines * rows_->row_tile_bytes + row_ % kSplitLines * 64 +
                (run_->first_step + step) * kSplitTileBytes;
        steps_ = run_->steps - step;
    }

    std::int64_t left_, row_ = 0, steps_ = 0;
    const float* from_ = nullptr;
    char* line_ = nullptr;
    Range range_;
    SplitRows* rows_ = nullptr;
    const SplitRun* run_ = nullptr;
};

void split_rows(SplitRows& rows, std::int64_t begin, std::int64_t end) {
    RowCursor cursor(&rows, begin, end);
    while (cursor.left() > 0) cursor.split_next();
    cursor.end_row();
}

bool split_columns(const float* lines, std::int64_t line_elems, char* tile) {
    Range range;
    for (std::int64_t p = 0; p < kSplitStep / 2; ++p)
        split(_mm512_loadu_ps(lines + p * line_elems),
              _mm512_loadu_ps(lines + (p + 16) * line_elems), tile + p * 64, range);
    return !range.fits(fastconv::cpu::kSplitSmallestColumn);
}

unsigned split_transposed(const float* const* elements, std::int64_t count, char* tile) {
    alignas(64) char lines[kSplitTileBytes];
    const __mmask16 some = Vec<float>::first(static_cast<int>(count));
    Range range;
    for (std::int64_t p = 0; p < kSplitStep / 2; ++p)
        split(_mm512_maskz_loadu_ps(some, elements[p]),
              _mm512_maskz_loadu_ps(some, elements[p + 16]), lines + p * 64, range);
    for (std::int64_t part = 0; part < 3; ++part)
        transpose(lines + part * kSplitPartBytes, tile + part * kSplitPartBytes);
    if (range.fits(fastconv::cpu::kSplitSmallestRow)) return 0;
    unsigned raw = 0;
    const std::uint32_t misfits = range.misfits(fastconv::cpu::kSplitSmallestRow);
    for (unsigned r = 0; r < 16; ++r)
        if ((misfits >> 2 * r & 3) != 0) raw |= 1u << r;
    return raw;
}

// ---- results ---------------------------------------------------------------------------------------

// Bias, residual, ReLU, in the order of the register tile. What there is not is -0 and -infinity, which
// change nothing.
FC_INLINE __m512 finished(__m512 y, __m512 bias, const float* residual, __mmask16 some, __m512 least) {
    y = _mm512_add_ps(y, bias);
    if (residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(some, residual));
    return _mm512_max_ps(least, y);
}

/// Goes through rows of results.
class ResultCursor {
public:
    FC_INLINE explicit ResultCursor(const SplitResults* results) {
        if (!results) return;
        left_ = results->count;
        fresh_ = results->fresh;
        vectors_ = results->pitch / kSplitLines;
        const GemmTile<float>& tile = results->tile;
        sum_ = tile.sum;
        first_ = results->first;
        if (!results->last) return;
        out_ = tile.out;
        residual_ = tile.residual;
        offset_ = tile.out_offset;
        least_ = tile.relu ? _mm512_setzero_ps() : _mm512_set1_ps(-__builtin_inff());
        for (int v = 0; v < 2; ++v) {
            some_[v] = Vec<float>::first(lanes_left<float>(tile.cols, v * kSplitLines));
            bias_[v] = tile.bias ? _mm512_maskz_loadu_ps(some_[v], tile.bias + v * kSplitLines)
                                 : _mm512_set1_ps(-0.0f);
        }
    }

    FC_INLINE std::int64_t left() const { return left_; }

    FC_INLINE void deliver_next() {
        deliver_vector<0>();
        if (vectors_ > 1) deliver_vector<1>();
        --left_;
        fresh_ += vectors_ * kSplitLines;
        sum_ += vectors_ * kSplitLines;
        if (out_) ++out_;
        if (residual_) ++residual_;
    }

private:
    template <int V>
    FC_INLINE void deliver_vector() {
        __m512 y = _mm512_load_ps(fresh_ + V * kSplitLines);
        if (!first_) y = _mm512_add_ps(_mm512_loadu_ps(sum_ + V * kSplitLines), y);
        if (!out_) return _mm512_storeu_ps(sum_ + V * kSplitLines, y);
        const std::int64_t at = offset_ + V * kSplitLines;
        y = finished(y, bias_[V], residual_ ? *residual_ + at : nullptr, some_[V], least_);
        _mm512_mask_storeu_ps(*out_ + at, some_[V], y);
    }

    std::int64_t left_ = 0, vectors_ = 0, offset_ = 0;
    const float* fresh_ = nullptr;
    float* sum_ = nullptr;
    bool first_ = true;
    float* const* out_ = nullptr;  // null: not the last steps
    const float* const* residual_ = nullptr;
    __m512 bias_[2], least_;
    __mmask16 some_[2];
};

void deliver(const SplitResults& results) {
    for (ResultCursor cursor(&results); cursor.left() > 0;) cursor.deliver_next();
}

// ---- products ------------------------------------------------------------------------------------

// Tiles 0, 1: sums of the upper rows; 2, 3: of the lower; 4, 5: rows; 6, 7: columns.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

FC_INLINE void configure(std::int64_t upper, std::int64_t lower) {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
        config.row_bytes[tile] = 64;
        const bool is_upper = tile < 2 || tile == 4, is_lower = tile == 2 || tile == 3 || tile == 5;
        config.rows[tile] = static_cast<std::uint8_t>(is_upper ? upper : is_lower && lower > 0 ? lower : 16);
    }
    // GCC 12's intrinsic tells the compiler that it reads 8 bytes.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

template <int RowTiles, int ColumnTiles>
FC_INLINE void load_rows(const char* upper, const char* lower) {
    _tile_loadd(4, upper, 64);
    if constexpr (RowTiles > 1) _tile_loadd(5, lower, 64);
}
template <int ColumnTiles>
FC_INLINE void load_columns(const char* columns) {
    _tile_loadd(6, columns, 64);
    if constexpr (ColumnTiles > 1) _tile_loadd(7, columns + kSplitTileBytes, 64);
}
template <int RowTiles, int ColumnTiles>
FC_INLINE void multiply_parts() {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (ColumnTiles > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (RowTiles > 1) {
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (ColumnTiles > 1) _tile_dpbf16ps(3, 5, 7);
    }
}

/// What the vector units do beside a product, a little after each part of a step: 4 multiplications, 64
/// cycles. More at a time and the tiles wait: some 500 instructions are under way at once.
class Meanwhile {
public:
    FC_INLINE explicit Meanwhile(const SplitProduct& product)
        : ahead_(product.ahead), lines_left_(product.ahead_lines),
          rows_(product.split, product.split_begin, product.split_end), results_(product.results) {
        const std::int64_t slots = product.steps * kSlots;
        lines_ = (lines_left_ + slots - 1) / slots;
        units_ = (rows_.left() + slots - 1) / slots;
        deliveries_ = (results_.left() + slots - 1) / slots;
    }

    static constexpr std::int64_t kSlots = 6;  // a step

    FC_INLINE void slot() {
        for (std::int64_t i = least(lines_, lines_left_); i > 0; --i, --lines_left_, ahead_ += 64)
            __builtin_prefetch(ahead_, 0, 2);
        for (std::int64_t i = least(deliveries_, results_.left()); i > 0; --i) results_.deliver_next();
        for (std::int64_t i = least(units_, rows_.left()); i > 0; --i) rows_.split_next();
    }

    FC_INLINE void end() { rows_.end_row(); }

private:
    static FC_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

    const char* ahead_;
    std::int64_t lines_left_, lines_, units_, deliveries_;
    RowCursor rows_;
    ResultCursor results_;
};

template <int RowTiles, int ColumnTiles>
void multiply_tiles(const SplitProduct& product) {
    constexpr std::int64_t kPart = kSplitPartBytes, kPitch = ColumnTiles * 64;
    const char* upper = product.rows;
    const char* lower = upper + product.row_tile_bytes;
    const char* columns = product.columns;
    Meanwhile meanwhile(product);
    _tile_zero(0);
    if constexpr (ColumnTiles > 1) _tile_zero(1);
    if constexpr (RowTiles > 1) _tile_zero(2);
    if constexpr (RowTiles > 1 && ColumnTiles > 1) _tile_zero(3);
    for (std::int64_t s = 0; s < product.steps; ++s) {
        load_rows<RowTiles, ColumnTiles>(upper, lower);
        load_columns<ColumnTiles>(columns + 2 * kPart);
        multiply_parts<RowTiles, ColumnTiles>();
        meanwhile.slot();
        load_columns<ColumnTiles>(columns + kPart);
        multiply_parts<RowTiles, ColumnTiles>();
        meanwhile.slot();
        load_rows<RowTiles, ColumnTiles>(upper + kPart, lower + kPart);
        multiply_parts<RowTiles, ColumnTiles>();
        meanwhile.slot();
        load_columns<ColumnTiles>(columns);
        multiply_parts<RowTiles, ColumnTiles>();
        meanwhile.slot();
        load_rows<RowTiles, ColumnTiles>(upper + 2 * kPart, lower + 2 * kPart);
        multiply_parts<RowTiles, ColumnTiles>();
        meanwhile.slot();
        load_rows<RowTiles, ColumnTiles>(upper, lower);
        multiply_parts<RowTiles, ColumnTiles>();
        meanwhile.slot();
        upper += kSplitTileBytes;
        lower += kSplitTileBytes;
        columns += ColumnTiles * kSplitTileBytes;
    }
    meanwhile.end();
    float* lower_fresh = product.fresh + kSplitLines * kSplitLines * ColumnTiles;
    _tile_stored(0, product.fresh, kPitch);
    if constexpr (ColumnTiles > 1) _tile_stored(1, product.fresh + 16, kPitch);
    if constexpr (RowTiles > 1) _tile_stored(2, lower_fresh, kPitch);
    if constexpr (RowTiles > 1 && ColumnTiles > 1) _tile_stored(3, lower_fresh + 16, kPitch);
}

// ---- lines that lie raw ----------------------------------------------------------------------------

constexpr std::int64_t kRawRows = 8;  // at once: the columns are joined once for them

/// Rows that are multiplied by multiply-adds.
struct RawRows {
    std::int64_t count = 0;
    std::int64_t row[kRawRows];
};

// Of rows that are left out of a full set the last stands in, and its result is written again.
void multiply_lines(const SplitProduct& product, const RawRows& rows, int column_tile) {
    const bool raw_columns = (product.raw_columns >> column_tile & 1) != 0;
    const char* columns = product.columns + column_tile * kSplitTileBytes;
    std::int64_t row[kRawRows];
    __m512 sum[kRawRows];
    for (std::int64_t i = 0; i < kRawRows; ++i) {
        row[i] = rows.row[i < rows.count ? i : rows.count - 1];
        sum[i] = _mm512_setzero_ps();
    }
    for (std::int64_t s = 0; s < product.steps; ++s) {
        alignas(64) float x[kRawRows][kSplitStep];
        for (std::int64_t i = 0; i < kRawRows; ++i) {
            const std::int64_t r = row[i];
            const Pair elements = joined(product.rows + r / kSplitLines * product.row_tile_bytes +
                                             r % kSplitLines * 64 + s * kSplitTileBytes,
                                         (product.raw_rows >> r & 1) != 0);
            _mm512_store_ps(x[i], elements.a);
            _mm512_store_ps(x[i] + 16, elements.b);
        }
        for (std::int64_t p = 0; p < kSplitStep / 2; ++p) {
            const Pair line = joined(columns + p * 64, raw_columns);
#pragma GCC unroll 8
            for (std::int64_t i = 0; i < kRawRows; ++i) {
                sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(x[i][p]), line.a, sum[i]);
                sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(x[i][p + 16]), line.b, sum[i]);
            }
        }
        columns += product.column_tiles * kSplitTileBytes;
    }
    for (std::int64_t i = 0; i < kRawRows; ++i)
        _mm512_storeu_ps(
            product.fresh + (row[i] * product.column_tiles + column_tile) * kSplitLines, sum[i]);
}

// What tiles cannot multiply: every row of raw columns, raw rows of the others.
void multiply_raw(const SplitProduct& product) {
    for (int tile = 0; tile < product.column_tiles; ++tile) {
        const bool all = (product.raw_columns >> tile & 1) != 0;
        RawRows rows;
        for (std::int64_t r = 0; r < product.count; ++r) {
            if (all || (product.raw_rows >> r & 1) != 0) rows.row[rows.count++] = r;
            const bool full = rows.count == kRawRows || r + 1 == product.count;
            if (!full || rows.count == 0) continue;
            multiply_lines(product, rows, tile);
            rows.count = 0;
        }
    }
}

void multiply(const SplitProduct& product, int& configured) {
    const std::int64_t upper = product.count < kSplitLines ? product.count : kSplitLines;
    const std::int64_t lower = product.count - upper;
    if (configured != product.count) configure(upper, lower);
    configured = static_cast<int>(product.count);
    if (lower > 0) {
        if (product.column_tiles > 1) multiply_tiles<2, 2>(product);
        else multiply_tiles<2, 1>(product);
    } else {
        if (product.column_tiles > 1) multiply_tiles<1, 2>(product);
        else multiply_tiles<1, 1>(product);
    }
    if ((product.raw_columns | product.raw_rows) != 0) multiply_raw(product);
}

void release() { _tile_release(); }

template <class T>
constexpr SplitKernels<T> table() {
    SplitKernels<T> kernels{};
    if constexpr (sizeof(T) == 4) {
        kernels.rows = split_rows;
        kernels.transposed = split_transposed;
        kernels.columns = split_columns;
        kernels.multiply = multiply;
        kernels.deliver = deliver;
        kernels.release = release;
    }
    return kernels;
}

#else

template <class T>
constexpr SplitKernels<T> table() {
    return {};
}

#endif

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const SplitKernels<float> split_f32 = table<float>();
extern const SplitKernels<double> split_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
