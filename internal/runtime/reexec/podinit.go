package reexec

/*
#define _GNU_SOURCE
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// pod_init is the whole life of the process that holds the PID namespace of
// a pod with shareProcessNamespace. It runs before Go does, so that it costs
// a few pages and not a Go runtime. As process 1 of the namespace it reaps
// what its pod's containers leave behind; it has no privileges and no secrets,
// and cannot be inspected from inside. It begins when the runtime has written
// a byte to its standard input: without one, the runtime died before it had
// noted where to find it, and it ends.
__attribute__((constructor)) static void pod_init(void)
{
	sigset_t chld;
	char word;

	if (getenv("_CORACLE_POD_INIT") == NULL)
		return;
	prctl(PR_SET_NAME, "pod-init", 0, 0, 0);
	if (read(0, &word, 1) != 1)
		_exit(1);
	syscall(SYS_close_range, 0, ~0U, 0);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_SETMASK, &chld, NULL);
	if (chdir("/") || setgroups(0, NULL) || setresgid(65535, 65535, 65535) || setresuid(65535, 65535, 65535))
		_exit(1);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		sigwaitinfo(&chld, NULL);
	}
}
*/
import "C"

// PodInitEnv is the environment variable that makes a re-executed binary the
// init process of a pod's shared PID namespace.
const PodInitEnv = "_CORACLE_POD_INIT"
