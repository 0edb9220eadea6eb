// For wheels (BIFUSION_MANYLINUX): what headers of GCC 11 and newer call, said with functions of GCC 8's
// libstdc++, the one that manylinux_2_28 promises, as PyTorch's own wheels do.
//
// Three functions, which libstdc++ has for callers from outside only since GCC 11: without them the
// engine would need that, and so a glibc of 2.34. The hidden definitions here are the engine's own.
#include <exception>
#include <memory>
#include <new>

#if !defined(__GLIBCXX__) || !defined(__linux__)
#error "BIFUSION_MANYLINUX: libstdc++ on Linux is what manylinux wheels are built with"
#endif

#ifndef __OPTIMIZE__
#error "BIFUSION_MANYLINUX: compile with -O2 at least, or the module shows inline functions to libstdc++"
#endif

#define OWN(symbol) __asm__(".hidden " symbol)
OWN("_ZSt28__throw_bad_array_new_lengthv");
OWN("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
OWN("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");

// exception_ptr's assignment as libstdc++ itself has it, asked for by its version: the one in the headers
// calls the functions below.
extern "C" void* libstdcxx_assign(void* to, const void* from) noexcept;
__asm__(".symver libstdcxx_assign, _ZNSt15__exception_ptr13exception_ptraSERKS0_@CXXABI_1.3.3");

[[noreturn]] void std::__throw_bad_array_new_length() { throw std::bad_array_new_length(); }

void std::__exception_ptr::exception_ptr::_M_addref() noexcept {
    void* copy = nullptr;  // never destroyed: it is the reference that is added
    libstdcxx_assign(&copy, this);
}

void std::__exception_ptr::exception_ptr::_M_release() noexcept {
    void* none = nullptr;
    libstdcxx_assign(this, &none);
}
