// Rows catch up: those that a step is about to touch, those that a caller asks for, or all.
#include <algorithm>
#include <array>
#include <stdexcept>

#include "engine/check.hpp"
#include "engine/state.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

template <class T>
kernel::Scalars narrowed(const kernel::Scalars& scalars) {
    kernel::Scalars values;
    for (int k = 0; k < kernel::most_scalars; ++k) {
        values.values[k] = static_cast<double>(static_cast<T>(scalars.values[k]));
    }
    return values;
}

double until_zero(const void* history, std::int32_t entry, double slot) {
    return static_cast<const History*>(history)->move_until_zero(entry, slot, false);
}

double until_zero_of_double(const void* history, std::int32_t entry, double slot) {
    return static_cast<const History*>(history)->move_until_zero(entry, slot, true);
}

}  // namespace

// With the numbers that the kernel computes with. In double they would differ by their rounding, and after many steps
// that would show.
kernel::Missed Optimizer::State::missed_in_step(const kernel::Job& job) const {
    const FloatEnvironment environment;
    const kernel::Step& step = common[job.branch];
    const auto narrow = job.computes_in_double ? narrowed<double> : narrowed<float>;
    kernel::Missed missed = definition_of(rule).missed(rule, narrow(step.scalars), job.branch);
    if (job.decays)
        missed.keep = job.computes_in_double ? step.keep : static_cast<double>(static_cast<float>(step.keep));
    return missed;
}

Table Optimizer::State::table_of(std::size_t index) const {
    const Tensor& tensor = variables[index].tensor;
    Table table{};
    table.variable = index;
    table.given = table.rows = tensor.shape()[0];
    table.row_size = tensor.size() / table.rows;
    table.is_whole = true;
    set_slot_sizes(table);
    return table;
}

void Optimizer::State::set_slot_sizes(Table& table) const {
    table.slot_sizes.fill(table.row_size);
    const kernel::Job& job = jobs[table.variable];
    const std::vector<Slot>& slots = branch_of(job).slots;
    for (std::size_t k = 0; k < slots.size(); ++k) {
        table.slot_items[k] = item_bytes(slots[k], job);
        if (slots[k].form == Form::rowwise) table.slot_sizes[k] = 1;
    }
}

/// Of rows that are up to date, nothing is left to do.
void Optimizer::State::catch_up_rows(const RowBatch& batch) const {
    const std::size_t index = batch.table.variable;
    const History& history = histories[index];
    if (history.is_empty()) return;
    std::array<kernel::Missed, RowBatch::most> missed;
    for (std::size_t k = 0; k < batch.rows.size(); ++k) missed[k] = history.missed_by(batch.rows[k]);
    const kernel::Job& job = jobs[index];
    kernel::CatchUp all{};
    all.missed = missed.data();
    std::ranges::copy(batch.table.slot_sizes, all.slot_sizes);
    all.moving_slot = history.mover().slot;
    all.moves_by_sign = history.mover().is_sign;
    all.move_until_zero = job.computes_in_double ? until_zero_of_double : until_zero;
    all.history = &history;
    all.seed = seed_of(options, calls);
    current_kernels().catch_up[job.computes_in_double](all, batch.stretch());
}

/// All rows of one table.
void Optimizer::State::catch_up_table(std::size_t index) noexcept {
    History& history = histories[index];
    if (history.is_empty()) return;
    const Table table = table_of(index);
    const int threads = threads_for(jobs[index].size);
    const std::int64_t shares = std::min(shares_for(threads, jobs[index].size), table.rows);
    run_on_threads(threads, shares, [&](std::int64_t share) {
        const auto begin_of = [&](std::int64_t k) {
            return table.rows / shares * k + std::min(k, table.rows % shares);
        };
        RowReader reader(table, jobs[index], begin_of(share), begin_of(share + 1));
        while (!reader.is_at_end()) catch_up_rows(reader.next());
    });
    history.clear();
}

void Optimizer::State::catch_up_all() noexcept {
    for (std::size_t i = 0; i < histories.size(); ++i) catch_up_table(i);
}

/// Before a dense gradient, and if there is no room for another step.
void Optimizer::State::catch_up_before_step() noexcept {
    if (options.row_updates == RowUpdates::lazy) return;
    for (std::size_t i = 0; i < histories.size(); ++i) {
        if (jobs[i].work == kernel::Work::update || histories[i].is_full()) catch_up_table(i);
    }
}

void Optimizer::State::catch_up() {
    require_built("catch_up");
    require_not_stepping("catch_up");
    require_training_weights("catch_up");
    catch_up_all();
}

void Optimizer::State::catch_up(const Tensor& variable, const Tensor& indices) {
    require_built("catch_up");
    require_not_stepping("catch_up");
    require_training_weights("catch_up");
    const std::size_t index = variable ? find(variable) : unknown;
    if (index == unknown) {
        throw std::invalid_argument(
            "catch_up: expected a variable given to build, found " +
            (variable ? "an array of shape " + to_string(variable.shape()) + " in other memory" : std::string("none")));
    }
    if (!indices) {
        catch_up_table(index);
        return;
    }
    rows.begin();
    set_slot_sizes(
        rows.add_indices(index, variables[index].tensor, indices, [&] { return "catch_up: " + describe(index); }));
    History& history = histories[index];
    if (history.is_empty()) return;
    rows.prepare();
    rows.run(jobs, [&](const RowBatch& batch) {
        catch_up_rows(batch);
        for (const std::int64_t row : batch.rows) history.mark_now(row);
    });
}

}  // namespace fusedopt
