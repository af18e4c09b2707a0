// How ranks fail together: before anybody writes, all learn whether one has refused, and whether they mean the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <fusedopt/sharding.hpp>

#include "engine/given.hpp"

namespace fusedopt {

/// What must be the same on all ranks before a call goes on: numbers, which are quick to compare, and lines of text.
class Facts {
public:
    void clear(const std::string& operation);

    using Value = std::variant<std::int64_t, double, std::string_view>;

    /// Text must outlive the facts. A variable, if it is about one.
    void add(const char* what, Value value, std::size_t variable = unknown) {
        values_.push_back({what, optimizer_, variable, value});
    }
    void add(const std::string& line) { lines_.push_back(of_optimizer(optimizer_) + line); }

    /// What is added from now on is about this one of several optimizers, or `unknown`: about the call.
    void turn_to(std::size_t optimizer) { optimizer_ = optimizer; }

    std::uint64_t digest() const;

    /// A line for each.
    std::string text() const;

private:
    static std::string of_optimizer(std::size_t optimizer);

    struct Named {
        const char* what;
        std::size_t optimizer;
        std::size_t variable;
        Value value;
    };
    std::vector<std::string> lines_;
    std::vector<Named> values_;
    std::size_t optimizer_ = unknown;
};

/// Of a few bytes or of an array.
std::uint64_t checksum(const void* data, std::size_t size, std::uint64_t seed = 0xcbf29ce484222325);

class Agreement {
public:
    explicit Agreement(Communicator communicator);

    const Communicator& communicator() const { return communicator_; }
    std::size_t rank() const { return static_cast<std::size_t>(communicator_.rank); }
    std::size_t size() const { return static_cast<std::size_t>(communicator_.size); }

    /// Sends all of `send` to each rank, and returns when all that is received is there.
    void gather(std::span<const std::byte> send, std::span<std::byte> receive, Communicator::Counts counts) const;

    /// How often this rank has exchanged whether all may go on.
    std::int64_t count() const { return count_; }

    /// Runs function(facts) on each rank, which returns a flag. Throws on all if it threw on one, or if facts differ.
    /// Returns whether the flag of any is true.
    template <class Function>
    bool on(const std::string& operation, const Function& function) {
        facts_.clear(operation);
        std::exception_ptr error;
        bool flag = false;
        try {
            require_one_thread(operation);
            flag = function(facts_);
        } catch (...) {
            error = std::current_exception();
        }
        return settle(operation, error, flag);
    }

private:
    void require_one_thread(const std::string& operation);
    bool settle(const std::string& operation, std::exception_ptr error, bool flag);
    std::vector<std::string> exchange(const std::string& text) const;
    [[noreturn]] void refuse_difference(const std::string& operation) const;

    Communicator communicator_;
    std::int64_t process_;
    std::thread::id thread_;  // of the first call
    std::int64_t count_ = 0;
    Facts facts_;
};

}  // namespace fusedopt
