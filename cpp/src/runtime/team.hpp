// Whether a forked child lacks the threads that its parent had.
#pragma once

namespace fusedopt {

/// True in a child that was forked after its parent had started threads.
bool was_forked_after_a_team();

}  // namespace fusedopt
