// Gradients of rows are checked, equal rows become one, and rows become jobs. All work here follows from the keys
// alone, so it does not matter how many threads do it. One file, though long: it is one class, and a step calls its
// parts in this order.
#include "engine/rows.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "engine/given.hpp"
#include "engine/state.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

std::int64_t product_of(std::span<const std::int64_t> extents) {
    std::int64_t product = 1;
    for (const std::int64_t extent : extents) product *= extent;
    return product;
}

/// Refuses indices that are none of rows, whatever they are.
void check_indices(const Tensor& table, const Tensor& indices, const Rows::Who& who) {
    const auto refuse = [&](const std::string& text) { throw std::invalid_argument(who() + ": " + text); };
    const auto name = [](const Tensor& tensor) { return std::string(to_string(tensor.dtype())); };
    if (table.rank() == 0) {
        refuse("expected a variable with rows, found one of rank 0, which has no dimension to count rows by");
    }
    if (!indices) refuse("expected indices, found none");
    if (indices.dtype() != DType::int32 && indices.dtype() != DType::int64) {
        refuse("expected indices of int32 or int64, found " + name(indices));
    }
    if (indices.rank() != 1) {
        refuse("expected indices of one dimension, found shape " + to_string(indices.shape()) +
               "; give indices.reshape(-1)");
    }
    if (indices.dtype() == DType::int32 && table.shape()[0] > std::int64_t{1} << 31) {
        refuse("expected int64 indices, as the variable has " + std::to_string(table.shape()[0]) +
               " rows, more than 2^31, found int32");
    }
}

/// Refuses a gradient of rows that does not fit its variable.
void check_form(const Tensor& table, const Tensor& values, const Tensor& indices, const Rows::Who& who) {
    const auto refuse = [&](const std::string& text) { throw std::invalid_argument(who() + ": " + text); };
    const auto name = [](const Tensor& tensor) { return std::string(to_string(tensor.dtype())); };
    if (table.rank() == 0) {
        refuse("expected a dense gradient, as the variable has no dimension to count rows by, found one of rows");
    }
    check_indices(table, indices, who);
    if (!is_floating(values.dtype())) {
        refuse("expected values of float16, bfloat16, float32 or float64, found " + name(values));
    }
    std::vector<std::int64_t> expected;
    const auto is_expected = [&] {
        if (values.rank() != table.rank() || values.shape()[0] != indices.size()) return false;
        return std::ranges::equal(values.shape().subspan(1), table.shape().subspan(1));
    };
    if (!is_expected()) {
        expected.assign(table.shape().begin(), table.shape().end());
        expected[0] = indices.size();
        refuse("expected values of shape " + to_string(expected) + ", as there are " + std::to_string(indices.size()) +
               " indices into a variable of shape " + to_string(table.shape()) + ", found " +
               to_string(values.shape()));
    }
}

[[noreturn]] void refuse_index(std::span<const RowKey> indices, std::int64_t rows, const Rows::Who& who) {
    const auto is_wrong = [&](RowKey index) { return index >= static_cast<RowKey>(rows); };
    const auto wrong = std::ranges::find_if(indices, is_wrong);
    const std::string expected =
        rows > 0 ? "row indices from 0 to " + std::to_string(rows - 1) : std::string("no row indices");
    throw std::invalid_argument(who() + ": expected " + expected + ", the variable having " + std::to_string(rows) +
                                " rows, found " + std::to_string(static_cast<std::int64_t>(*wrong)) + " at position " +
                                std::to_string(wrong - indices.begin()));
}

/// How the rows of values lie, as a job describes a gradient.
void describe_rows(const Tensor& values, kernel::Job& job) {
    const auto item = static_cast<std::int64_t>(item_size(values.dtype()));
    bool is_plain = values.is_aligned() && (values.shape()[0] <= 1 || values.strides()[0] % item == 0);
    std::int64_t packed = item;
    for (std::size_t d = values.rank(); d-- > 1;) {
        is_plain = is_plain && (values.shape()[d] <= 1 || values.strides()[d] == packed);
        packed *= values.shape()[d];
    }
    job.gradient = values.data();
    job.gradient_element = element_of(values.dtype());
    job.shape = is_plain ? nullptr : values.shape().data() + 1;
    job.strides = is_plain ? nullptr : values.strides().data() + 1;
    job.rank = static_cast<std::uint8_t>(values.rank() - 1);
}

std::int64_t bytes_of(kernel::Element element) {
    return element == kernel::Element::float64 ? 8 : element == kernel::Element::float32 ? 4 : 2;
}

std::size_t bytes_of_sums(const Table& table) {
    if (!table.values) return 0;
    return static_cast<std::size_t>(table.sum_count * table.row_size * bytes_of(table.element) + 63) / 64 * 64;
}

std::int64_t tiles_of(const Table& table) {
    return (table.row_size + kernel::tile - 1) / kernel::tile;
}

template <class Type>
void advance(Type*& pointer, std::int64_t bytes) {
    using Byte = std::conditional_t<std::is_const_v<Type>, const std::byte, std::byte>;
    pointer = static_cast<Byte*>(pointer) + bytes;
}

}  // namespace

RowReader::RowReader(const Table& table, const kernel::Job& variable, std::int64_t begin, std::int64_t end)
    : table_(table), whole_(variable), place_(begin), end_(end) {
    const std::int64_t item = variable.computes_in_double ? 8 : 4;
    const std::int64_t row_bytes = table.row_size * item;
    ahead_ = static_cast<int>(std::clamp<std::int64_t>(1024 / row_bytes, 1, most_ahead));
    tiles_ = tiles_of(table);
    weight_bytes_ = variable.weight ? row_bytes : 0;
    storage_bytes_ = variable.storage ? 2 * table.row_size : 0;
    for (std::size_t k = 0; k < slot_bytes_.size(); ++k) {
        slot_bytes_[k] = variable.slots[k] ? table.slot_sizes[k] * table.slot_items[k] : 0;
    }
    if (variable.slot_code == kernel::SlotCode::float8) {
        scale_bytes_ = table.row_size / kernel::slot_block * 2 - table.row_size;
    }
    whole_.size = table.row_size;
    whole_.work = kernel::Work::update;
    if (table.is_whole) {
        describe_dense();
        average_bytes_ = variable.average ? row_bytes : 0;
        accumulator_bytes_ = variable.accumulator ? row_bytes : 0;
        return;
    }
    whole_.average = nullptr;
    whole_.accumulator = nullptr;
    whole_.gradient = nullptr;
    whole_.strides = nullptr;
    if (table.values) {
        gradient_bytes_ = table.values->strides()[0];
        sum_bytes_ = table.row_size * bytes_of(table.element);
        describe_rows(*table.values, whole_);
    }
}

void RowReader::describe_dense() {
    if (!whole_.gradient) return;
    gradient_bytes_ = whole_.size * bytes_of(whole_.gradient_element);
    if (!whole_.strides) return;
    gradient_bytes_ = whole_.strides[0];
    ++whole_.shape;
    ++whole_.strides;
    --whole_.rank;
}

void RowReader::fill(std::int64_t from, std::int64_t to) {
    const RowKeyForm form = table_.form;
    const RowKey is_sum = table_.is_whole ? 0 : form.mark();
    for (std::int64_t i = from; i < to; ++i) {
        const auto place = static_cast<std::size_t>(place_ + i);
        const RowKey key = table_.is_whole ? 0 : table_.touched[place];
        const std::int64_t row = table_.is_whole ? place_ + i : form.row_of(key);
        const std::int64_t source = table_.is_whole ? place_ + i : form.place_of(key);
        kernel::Job& job = jobs_[static_cast<std::size_t>(i)];
        job = whole_;
        if (key & is_sum) {
            job.gradient = table_.sums + source * sum_bytes_;
            job.gradient_element = table_.element;
            job.strides = nullptr;
        } else {
            advance(job.gradient, source * gradient_bytes_);
        }
        advance(job.weight, row * weight_bytes_);
        advance(job.storage, row * storage_bytes_);
        advance(job.average, row * average_bytes_);
        advance(job.accumulator, row * accumulator_bytes_);
        for (std::size_t k = 0; k < slot_bytes_.size(); ++k) advance(job.slots[k], row * slot_bytes_[k]);
        job.scales += row * scale_bytes_;
        job.first_partial += static_cast<std::size_t>(row * tiles_);
        rows_[static_cast<std::size_t>(i)] = row;
    }
}

RowBatch RowReader::next() {
    const auto left = end_ - place_;
    const std::int64_t count = std::min(left, most);
    const std::int64_t wanted = std::min(left, most + ahead_);
    // Behind the batch before are the first jobs of this one.
    if (filled_ > most) {
        std::copy(jobs_.begin() + most, jobs_.begin() + filled_, jobs_.begin());
        std::copy(rows_.begin() + most, rows_.begin() + filled_, rows_.begin());
    }
    fill(std::max<std::int64_t>(filled_ - most, 0), wanted);
    filled_ = wanted;
    for (auto i = static_cast<std::size_t>(wanted); i < static_cast<std::size_t>(count + ahead_); ++i) {
        jobs_[i] = jobs_[i - 1];
        rows_[i] = rows_[i - 1];
    }
    const std::int64_t first = std::exchange(place_, place_ + count);
    const auto size = static_cast<std::size_t>(count);
    return {table_, first, std::span(jobs_).first(size), std::span<const std::int64_t>(rows_).first(size), ahead_};
}

void Rows::begin() {
    tables_.clear();
    plan_.clear();
    used_keys_ = 0;
}

Table& Rows::add(std::size_t variable, const Tensor& table, const Tensor& values, const Tensor& indices,
                 const Who& who) {
    check_form(table, values, indices, who);
    return add_keys(variable, table, &values, indices, who);
}

Table& Rows::add_indices(std::size_t variable, const Tensor& table, const Tensor& indices, const Who& who) {
    check_indices(table, indices, who);
    return add_keys(variable, table, nullptr, indices, who);
}

Table& Rows::add_keys(std::size_t variable, const Tensor& table, const Tensor* values, const Tensor& indices,
                      const Who& who) {
    const std::int64_t count = indices.size(), rows = table.shape()[0];
    const RowKeyForm form = RowKeyForm::of(count, rows);
    if (!form.fits()) {
        throw std::invalid_argument(who() + ": expected fewer than 2^63 rows times indices, found " +
                                    std::to_string(rows) + " rows and " + std::to_string(count) +
                                    " indices; split the gradient");
    }
    const std::size_t first = used_keys_;
    const std::size_t end = first + static_cast<std::size_t>(count);
    if (keys_.size() < end) keys_.resize(end);
    RowKey* const keys = keys_.data() + first;
    if (!copy_indices(indices, rows, keys)) {
        refuse_index(std::span(keys, static_cast<std::size_t>(count)), rows, who);
    }
    used_keys_ = end;
    Table& added = add_table(variable, table, values, count);
    added.first_key = first;
    added.form = form;
    return added;
}

Table& Rows::add_table(std::size_t variable, const Tensor& table, const Tensor* values, std::int64_t given) {
    if (numbers_.size() <= variable) numbers_.resize(variable + 1);
    numbers_[variable] = tables_.size();
    Table& added = tables_.emplace_back();
    added.variable = variable;
    added.values = values;
    added.given = added.rows = given;
    added.row_size = product_of(table.shape().subspan(1));
    added.slot_sizes.fill(added.row_size);
    added.slot_items.fill(table.dtype() == DType::float64 ? 8 : 4);
    const bool is_double = table.dtype() == DType::float64 || (values && values->dtype() == DType::float64);
    added.element = is_double ? kernel::Element::float64 : kernel::Element::float32;
    return added;
}

void Rows::prepare() {
    if (tables_.empty()) return;
    if (other_keys_.size() < used_keys_) other_keys_.resize(keys_.size());
    std::size_t repeated = 0, bytes = 0;
    for (Table& table : tables_) {
        RowKey *const keys = keys_.data() + table.first_key, *const other = other_keys_.data() + table.first_key;
        table.sorted = table.touched = sorter_.sort(keys, other, table.given, table.form);
        if (!has_equal(table.sorted, table.given, table.form)) continue;
        table.sum_count = table.given / 2;  // at most; so that no later step with as many rows needs more memory
        repeated += static_cast<std::size_t>(table.sum_count);
        bytes += bytes_of_sums(table);
    }
    if (begins_.size() < repeated) begins_.resize(repeated);
    if (sums_bytes_ < bytes) {
        sums_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
        sums_bytes_ = bytes;
    }
    std::byte* sums = sums_.get();
    std::size_t* begins = begins_.data();
    summed_.clear();
    for (std::size_t k = 0; k < tables_.size(); ++k) {
        Table& table = tables_[k];
        if (table.sum_count > 0) {
            table.sums = sums;
            table.begins = begins;
            sums += bytes_of_sums(table);
            begins += table.sum_count;
            join_equal(table, begins - table.sum_count);
            if (table.values) summed_.add(k, table.given * table.row_size);
        }
        plan_.add(k, table.rows * table.row_size);
    }
    summed_.run([&](std::size_t k, std::int64_t begin, std::int64_t end) {
        const Table& table = tables_[k];
        sum(table, rows_before(table, begin), rows_before(table, end));
    });
}

/// One key of those of each row.
void Rows::join_equal(Table& table, std::size_t* begins) {
    const RowKey* const sorted = table.sorted;
    const RowKeyForm form = table.form;
    RowKey* const free = (sorted == keys_.data() + table.first_key ? other_keys_ : keys_).data() + table.first_key;
    table.touched = free;
    table.rows = table.sum_count = 0;
    for (std::int64_t i = 0, next; i < table.given; i = next) {
        for (next = i + 1; next < table.given && form.is_same_row(sorted[next], sorted[i]);) ++next;
        RowKey key = sorted[i];
        if (next - i > 1) {
            begins[table.sum_count] = static_cast<std::size_t>(i);
            key = key >> form.shift << form.shift | form.mark() | static_cast<RowKey>(table.sum_count++);
        }
        free[table.rows++] = key;
    }
}

/// Sums the values of the rows whose keys begin in a part of all.
void Rows::sum(const Table& table, std::int64_t begin, std::int64_t end) const {
    const auto* const all = table.begins + table.sum_count;
    const auto* next = std::lower_bound(table.begins, all, static_cast<std::size_t>(begin));
    kernel::Job whole{};
    whole.size = table.row_size;
    whole.work = kernel::Work::accumulate;
    whole.computes_in_double = table.element == kernel::Element::float64;
    describe_rows(*table.values, whole);
    kernel::Step step{};
    step.unscale = 1.0;
    const auto add = current_kernels().other_work[whole.computes_in_double];
    const std::int64_t stride = table.values->strides()[0], sum_bytes = table.row_size * bytes_of(table.element);
    std::array<kernel::Job, 32> jobs;
    std::size_t filled = 0;
    const auto flush = [&] {
        if (filled > 0) add(step, {&jobs[0], &jobs[filled - 1], 0, table.row_size});
        filled = 0;
    };
    for (; next != all && static_cast<std::int64_t>(*next) < end; ++next) {
        std::byte* const sum = table.sums + (next - table.begins) * sum_bytes;
        std::memset(sum, 0, static_cast<std::size_t>(sum_bytes));
        const RowKey first = table.sorted[*next];
        for (auto i = static_cast<std::int64_t>(*next);
             i < table.given && table.form.is_same_row(table.sorted[i], first); ++i) {
            kernel::Job& job = jobs[filled++];
            job = whole;
            job.accumulator = sum;
            advance(job.gradient, table.form.place_of(table.sorted[i]) * stride);
            if (filled == jobs.size()) flush();
        }
    }
    flush();
}

bool Rows::measure(double unscale, std::span<const kernel::Job> jobs) {
    std::size_t partials = 0;
    measured_.clear();
    for (std::size_t k = 0; k < tables_.size(); ++k) {
        Table& table = tables_[k];
        table.first_partial = partials;
        partials += static_cast<std::size_t>(table.given * tiles_of(table));
        measured_.add(k, table.rows * table.row_size);
    }
    if (partials_.size() < partials) partials_.resize(partials);
    const auto measure_stretch = current_kernels().measure;
    std::atomic<bool> is_finite = true;
    run(measured_, jobs, [&](const RowBatch& batch) {
        const std::int64_t tiles = tiles_of(batch.table);
        std::size_t partial = batch.table.first_partial + static_cast<std::size_t>(batch.first * tiles);
        for (kernel::Job& job : batch.jobs) {
            job.first_partial = partial;
            partial += static_cast<std::size_t>(tiles);
        }
        if (!measure_stretch(unscale, batch.stretch(), partials_.data())) {
            is_finite.store(false, std::memory_order_relaxed);
        }
    });
    return is_finite;
}

double Rows::sum_of_squares(std::size_t variable) const {
    const Table& table = tables_[numbers_[variable]];
    const auto begin = partials_.begin() + static_cast<std::ptrdiff_t>(table.first_partial);
    return std::accumulate(begin, begin + table.rows * tiles_of(table), 0.0);
}

}  // namespace fusedopt
