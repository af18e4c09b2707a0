// One small exchange tells all ranks whether to go on. Texts follow only if the answer is no.
#include "engine/agreement.hpp"

#include <cstring>
#include <limits>
#include <span>
#include <sstream>
#include <stdexcept>
#include <utility>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace fusedopt {
namespace {

std::int64_t this_process() {
#if defined(_WIN32)
    return _getpid();
#else
    return getpid();
#endif
}

struct Answer {
    std::uint64_t has_failed;
    std::uint64_t digest;
    std::uint64_t flag;
};

// A Python error has its traceback behind the message.
std::string message_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& exception) {
        const std::string message = exception.what();
        return message.substr(0, message.find("\n\nAt:\n"));
    } catch (...) {
        return "an exception without a message";
    }
}

/// The first line of two texts in which they differ.
std::pair<std::string, std::string> difference(const std::string& one, const std::string& other) {
    std::istringstream of_one(one), of_other(other);
    for (;;) {
        std::string first, second;
        const bool is_first = static_cast<bool>(std::getline(of_one, first));
        const bool is_second = static_cast<bool>(std::getline(of_other, second));
        if (is_first && is_second && first == second) continue;
        return {is_first ? "'" + first + "'" : "nothing more", is_second ? "'" + second + "'" : "nothing more"};
    }
}

}  // namespace

// FNV-1a, by words.
std::uint64_t checksum(const void* data, std::size_t size, std::uint64_t seed) {
    constexpr std::uint64_t prime = 0x100000001b3;
    const auto* bytes = static_cast<const std::byte*>(data);
    std::uint64_t hash = seed;
    std::size_t i = 0;
    for (; i + sizeof(std::uint64_t) <= size; i += sizeof(std::uint64_t)) {
        std::uint64_t word;
        std::memcpy(&word, bytes + i, sizeof(word));
        hash = (hash ^ word) * prime;
        hash ^= hash >> 32;  // a product moves bits up only
    }
    for (; i < size; ++i) hash = (hash ^ static_cast<std::uint64_t>(bytes[i])) * prime;
    return hash;
}

void Facts::clear(const std::string& operation) {
    values_.clear();
    lines_.clear();
    optimizer_ = unknown;
    lines_.push_back("a call of " + operation);
}

std::string Facts::of_optimizer(std::size_t optimizer) {
    return optimizer == unknown ? "" : "optimizer " + std::to_string(optimizer) + ": ";
}

std::uint64_t Facts::digest() const {
    std::uint64_t hash = checksum(nullptr, 0);
    for (const std::string& line : lines_) hash = checksum(line.data(), line.size(), hash);
    for (const Named& named : values_) {
        if (const auto* text = std::get_if<std::string_view>(&named.value)) {
            hash = checksum(text->data(), text->size(), hash);
        } else if (const auto* count = std::get_if<std::int64_t>(&named.value)) {
            hash = checksum(count, sizeof(*count), hash);
        } else {
            hash = checksum(&std::get<double>(named.value), sizeof(double), hash);
        }
    }
    return hash;
}

std::string Facts::text() const {
    std::ostringstream text;
    text.precision(std::numeric_limits<double>::max_digits10);
    for (const std::string& line : lines_) text << line << '\n';
    for (const Named& named : values_) {
        text << of_optimizer(named.optimizer) << named.what;
        if (named.variable != unknown) text << " of variable " << named.variable;
        std::visit([&](const auto& value) { text << ": " << value << '\n'; }, named.value);
    }
    return text.str();
}

Agreement::Agreement(Communicator communicator) : communicator_(std::move(communicator)), process_(this_process()) {
    if (communicator_.size < 1 || communicator_.rank < 0 || communicator_.rank >= communicator_.size) {
        throw std::invalid_argument("communicator: expected a rank from 0 to size - 1, found rank " +
                                    std::to_string(communicator_.rank) + " of " + std::to_string(communicator_.size));
    }
    if (!communicator_.alltoallv || !communicator_.allgatherv) {
        throw std::invalid_argument("communicator: expected the functions alltoallv and allgatherv, found one missing");
    }
}

void Agreement::gather(std::span<const std::byte> send, std::span<std::byte> receive,
                       Communicator::Counts counts) const {
    if (const Communicator::Wait wait = communicator_.allgatherv(send, receive, counts)) wait();
}

std::vector<std::string> Agreement::exchange(const std::string& text) const {
    const auto own_size = static_cast<std::int64_t>(text.size());
    std::vector<std::int64_t> sizes(size());
    const std::vector<std::int64_t> size_bytes(size(), sizeof(std::int64_t));
    gather(std::as_bytes(std::span(&own_size, 1)), std::as_writable_bytes(std::span(sizes)), size_bytes);
    std::int64_t total = 0;
    for (const std::int64_t size : sizes) total += size;
    std::string all(static_cast<std::size_t>(total), ' ');
    gather(std::as_bytes(std::span(text)), std::as_writable_bytes(std::span(all)), sizes);
    std::vector<std::string> texts;
    std::size_t begin = 0;
    for (const std::int64_t size : sizes) {
        texts.push_back(all.substr(begin, static_cast<std::size_t>(size)));
        begin += static_cast<std::size_t>(size);
    }
    return texts;
}

void Agreement::refuse_difference(const std::string& operation) const {
    const std::vector<std::string> texts = exchange(facts_.text());
    for (std::size_t k = 1; k < size(); ++k) {
        if (texts[k] == texts[0]) continue;
        const auto [one, other] = difference(texts[0], texts[k]);
        throw std::invalid_argument(operation + ": expected the same on all ranks, found " + one + " on rank 0 and " +
                                    other + " on rank " + std::to_string(k));
    }
    throw std::invalid_argument(operation + ": expected the same on all ranks, found numbers that differ");
}

// Two threads would not take their turns on all ranks alike.
void Agreement::require_one_thread(const std::string& operation) {
    const std::thread::id here = std::this_thread::get_id();
    if (thread_ == std::thread::id()) thread_ = here;
    if (thread_ == here) return;
    throw std::invalid_argument(operation +
                                ": expected in the thread that built the sharded optimizer, found another thread");
}

bool Agreement::settle(const std::string& operation, std::exception_ptr error, bool flag) {
    if (this_process() != process_) {
        throw std::invalid_argument(operation +
                                    ": expected in the process that made the sharded optimizer, found a forked child, "
                                    "which is no rank");
    }
    ++count_;
    const Answer own{error != nullptr, error ? 0 : facts_.digest(), flag};
    std::vector<Answer> answers(size());
    const std::vector<std::int64_t> bytes(size(), sizeof(Answer));
    gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(answers)), bytes);
    bool any_failed = false, any_flag = false, is_same = true;
    for (const Answer& answer : answers) {
        any_failed = any_failed || answer.has_failed;
        any_flag = any_flag || answer.flag;
        is_same = is_same && answer.digest == answers[0].digest;
    }
    if (any_failed) {
        const std::vector<std::string> messages = exchange(error ? message_of(error) : std::string());
        if (error) std::rethrow_exception(error);
        for (std::size_t k = 0; k < size(); ++k) {
            if (answers[k].has_failed) throw std::invalid_argument("rank " + std::to_string(k) + ": " + messages[k]);
        }
    }
    if (!is_same) refuse_difference(operation);
    return any_flag;
}

}  // namespace fusedopt
