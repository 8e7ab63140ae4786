#include "init.h"

#if defined(__x86_64__)
static inline __attribute__((always_inline)) long call(long nr, const unsigned long *a)
{
	register unsigned long r10 __asm__("r10") = a[3];
	register unsigned long r8 __asm__("r8") = a[4];
	register unsigned long r9 __asm__("r9") = a[5];
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
static inline __attribute__((always_inline)) long call(long nr, const unsigned long *a)
{
	register long x8 __asm__("x8") = nr;
	register unsigned long x0 __asm__("x0") = a[0];
	register unsigned long x1 __asm__("x1") = a[1];
	register unsigned long x2 __asm__("x2") = a[2];
	register unsigned long x3 __asm__("x3") = a[3];
	register unsigned long x4 __asm__("x4") = a[4];
	register unsigned long x5 __asm__("x5") = a[5];

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return (long)x0;
}
#else
static inline __attribute__((always_inline)) long call(long nr, const unsigned long *a)
{
	(void)nr;
	(void)a;
	for (;;)
		;
}
#endif

// coracle_init is all of the program that a container's first process runs until it becomes the command. It is the
// one function of its section, which is copied out of this binary as it stands: so it calls nothing, and has neither
// constants nor variables outside of the list that it is given at a fixed address.
//
// It makes the list's calls in turn. One whose error is none of those it may have ends it: the call's number and the
// error go to the runtime, over descriptor REPORT. The last entry, with the number GIVE_UP, reports the error that
// best says why no call before it was the last.
__attribute__((section("coracle_code"), used, noreturn)) void coracle_init(void)
{
	struct list *const l = (struct list *)LIST_AT;
	struct entry *const all = (struct entry *)l->entries;
	unsigned long i = 0;
	long ret;

	for (;; i++) {
		struct entry *const e = &all[i];

		if (e->unless != NO_ENTRY && all[e->unless].result >= 0)
			continue;
		if (e->nr == GIVE_UP) {
			l->error = l->denied ? l->denied : l->missing;
			break;
		}
		ret = call(e->nr, e->arg);
		e->result = ret;
		if (ret >= 0) {
			if (e->want == ANYTHING || ret == e->want)
				continue;
			l->error = EIO_OF_OURS;
			break;
		}
		l->error = (unsigned long)-ret;
		if (l->error > 63 || !(e->may_fail >> l->error & 1))
			break;
		if (l->error == EACCES_OF_LINUX)
			l->denied = l->error;
		else
			l->missing = l->error;
	}
	l->at = i;
	call(l->write, l->report);
	for (;;)
		call(l->exit, l->status);
}
