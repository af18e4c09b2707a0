// Data-parallel training over MPI: each rank has batches of its own, and all have the same weights. The communicator
// is MPI's C interface itself. Run it by: mpiexec -n 2 ranks
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <mpi.h>

#include <fusedopt/fusedopt.hpp>

namespace {

// What MPI reads until an exchange is over. It counts in int. fusedopt exchanges elements in windows, so all counts
// fit.
struct Exchange {
    struct Side {
        explicit Side(fusedopt::Communicator::Counts wide) : counts(wide.begin(), wide.end()), offsets(counts.size()) {
            for (std::size_t k = 1; k < counts.size(); ++k) offsets[k] = offsets[k - 1] + counts[k - 1];
        }
        std::vector<int> counts, offsets;
    };
    Side send, receive;
    MPI_Request request = MPI_REQUEST_NULL;
};

fusedopt::Communicator::Wait wait_for(std::shared_ptr<Exchange> exchange) {
    return [exchange] { MPI_Wait(&exchange->request, MPI_STATUS_IGNORE); };
}

// MPI's errors end all ranks, unless the program chooses otherwise by MPI_Comm_set_errhandler.
fusedopt::Communicator communicator_of(MPI_Comm comm) {
    using Counts = fusedopt::Communicator::Counts;
    fusedopt::Communicator made;
    MPI_Comm_rank(comm, &made.rank);
    MPI_Comm_size(comm, &made.size);
    made.alltoallv = [comm](std::span<const std::byte> send, Counts send_counts, std::span<std::byte> receive,
                            Counts receive_counts) {
        const auto exchange = std::make_shared<Exchange>(Exchange::Side(send_counts), Exchange::Side(receive_counts));
        MPI_Ialltoallv(send.data(), exchange->send.counts.data(), exchange->send.offsets.data(), MPI_BYTE,
                       receive.data(), exchange->receive.counts.data(), exchange->receive.offsets.data(), MPI_BYTE,
                       comm, &exchange->request);
        return wait_for(exchange);
    };
    made.allgatherv = [comm](std::span<const std::byte> send, std::span<std::byte> receive, Counts counts) {
        const auto exchange = std::make_shared<Exchange>(Exchange::Side({}), Exchange::Side(counts));
        MPI_Iallgatherv(send.data(), static_cast<int>(send.size()), MPI_BYTE, receive.data(),
                        exchange->receive.counts.data(), exchange->receive.offsets.data(), MPI_BYTE, comm,
                        &exchange->request);
        return wait_for(exchange);
    };
    return made;
}

constexpr std::size_t inputs = 128, outputs = 32, batch = 64;

using Matrix = std::array<float, inputs * outputs>;

/// A linear map that the ranks look for, in outputs for random inputs.
Matrix wanted_map() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    Matrix map;
    for (float& each : map) each = normal(random);
    return map;
}

/// Half the mean square of the errors in a batch, and its gradient.
double loss_and_gradient(const Matrix& weights, const Matrix& wanted, std::mt19937& random, Matrix& gradient) {
    std::normal_distribution<float> normal;
    std::array<float, inputs> x;
    gradient = {};
    double loss = 0.0;
    for (std::size_t example = 0; example < batch; ++example) {
        for (float& each : x) each = normal(random);
        for (std::size_t j = 0; j < outputs; ++j) {
            float error = 0.0f;
            for (std::size_t i = 0; i < inputs; ++i) {
                error += (weights[j * inputs + i] - wanted[j * inputs + i]) * x[i];
            }
            loss += 0.5 * static_cast<double>(error) * static_cast<double>(error) / batch;
            for (std::size_t i = 0; i < inputs; ++i) gradient[j * inputs + i] += error * x[i] / batch;
        }
    }
    return loss;
}

bool are_alike(const Matrix& weights, MPI_Comm comm) {
    Matrix first = weights;
    MPI_Bcast(first.data(), static_cast<int>(first.size()), MPI_FLOAT, 0, comm);
    int is_alike = std::memcmp(first.data(), weights.data(), sizeof(first)) == 0;
    MPI_Allreduce(MPI_IN_PLACE, &is_alike, 1, MPI_INT, MPI_LAND, comm);
    return is_alike != 0;
}

bool train(MPI_Comm comm) {
    fusedopt::Communicator communicator = communicator_of(comm);
    const int rank = communicator.rank, size = communicator.size;
    const Matrix wanted = wanted_map();
    Matrix weights{}, gradient;
    std::mt19937 random(100u + static_cast<unsigned>(rank));

    fusedopt::Optimizer optimizer(fusedopt::Adam{}, {.learning_rate = 0.02, .global_clipnorm = 10.0});
    optimizer.shard(std::move(communicator), true);  // the mean of all ranks' gradients
    optimizer.build({fusedopt::Tensor(weights)});
    double loss = 0.0;
    for (int step = 0; step <= 300; ++step) {
        loss = loss_and_gradient(weights, wanted, random, gradient) / size;
        MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_DOUBLE, MPI_SUM, comm);
        if (rank == 0 && step % 100 == 0) std::printf("step %3d: loss %.6f\n", step, loss);
        optimizer.apply({fusedopt::Tensor(gradient)});
    }
    const bool is_alike = are_alike(weights, comm);
    if (rank == 0) std::printf("%d ranks have %s weights\n", size, is_alike ? "the same" : "DIFFERENT");
    return is_alike && loss < 0.01;
}

}  // namespace

int main(int argc, char** argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);  // this thread alone calls MPI
    bool is_trained = false;
    try {
        is_trained = train(MPI_COMM_WORLD);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        MPI_Abort(MPI_COMM_WORLD, 1);  // the others would wait
    }
    MPI_Finalize();
    return is_trained ? 0 : 1;
}
