package reexec

/*
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LISTEN = 3, NAME = 128, GRACE = 600 };

struct held {
	char name[NAME];
	int fd;
	int hup;
};

static struct held *kept;
static int count, room;

static void drop(const char *prefix)
{
	size_t n = strlen(prefix);
	int i, j = 0;

	for (i = 0; i < count; i++) {
		if (strncmp(kept[i].name, prefix, n) == 0)
			close(kept[i].fd);
		else
			kept[j++] = kept[i];
	}
	count = j;
}

static int keep(const char *name, int fd)
{
	if (count == room) {
		int more = room ? room * 2 : 16;
		struct held *p = realloc(kept, more * sizeof *p);
		if (p == NULL)
			return -1;
		kept = p;
		room = more;
	}
	strncpy(kept[count].name, name, NAME - 1);
	kept[count].name[NAME - 1] = 0;
	kept[count].fd = fd;
	kept[count].hup = 0;
	count++;
	return 0;
}

static void answer(int conn, const char *name)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } c;
	char ok = 'n';
	struct iovec iov = { &ok, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	int i;

	for (i = 0; i < count; i++) {
		if (strcmp(kept[i].name, name) != 0)
			continue;
		ok = 'y';
		memset(&c, 0, sizeof c);
		m.msg_control = &c;
		m.msg_controllen = sizeof c;
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &kept[i].fd, sizeof(int));
		break;
	}
	sendmsg(conn, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// serve takes one message from the runtime; 0 says that it has gone.
static int serve(int conn)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } c;
	char buf[NAME + 1];
	struct iovec iov = { buf, NAME };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c };
	int fd = -1;
	ssize_t n = recvmsg(conn, &m, MSG_CMSG_CLOEXEC);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0)
		return 0;
	buf[n] = 0;
	if (m.msg_controllen >= sizeof c.h && c.h.cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(&c.h), sizeof fd);
	if (buf[0] == 'P' && fd >= 0) {
		if (keep(buf + 1, fd) < 0)
			close(fd);
		return 1;
	}
	if (fd >= 0)
		close(fd);
	if (buf[0] == 'D')
		drop(buf + 1);
	if (buf[0] == 'G')
		answer(conn, buf + 1);
	return 1;
}

// fdstore is the whole life of the process that keeps containers' output from
// vanishing while no runtime runs: see package fdstore. It runs before Go does.
__attribute__((constructor)) static void fdstore(void)
{
	struct pollfd *p = NULL;
	struct rlimit lim;
	int conn = -1, size = 0, i, waiting;

	if (getenv("_CORACLE_FDSTORE") == NULL)
		return;
	prctl(PR_SET_NAME, "coracle-fdstore", 0, 0, 0);
	syscall(SYS_close_range, LISTEN + 1, ~0U, 0);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
	for (;;) {
		if (size < count + 2) {
			size = count + 32;
			p = realloc(p, size * sizeof *p);
			if (p == NULL)
				_exit(1);
		}
		p[0] = (struct pollfd){ .fd = LISTEN, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = conn, .events = POLLIN };
		waiting = 0;
		// Without a runtime, only containers that still live are a reason to stay long.
		for (i = 0; i < count; i++) {
			p[i + 2] = (struct pollfd){ .fd = conn >= 0 || kept[i].hup ? -1 : kept[i].fd };
			waiting += !kept[i].hup;
		}
		i = poll(p, count + 2, conn >= 0 || waiting ? -1 : count ? GRACE * 1000 : 3000);
		if (i == 0)
			_exit(0);
		if (i < 0)
			continue;
		for (i = 0; i < count; i++)
			if (p[i + 2].fd >= 0 && p[i + 2].revents & (POLLHUP | POLLERR | POLLNVAL))
				kept[i].hup = 1;
		if (conn >= 0 && p[1].revents && !serve(conn)) {
			close(conn);
			conn = -1;
			for (i = 0; i < count; i++)
				kept[i].hup = 0;
			if (count == 0)
				_exit(0);
		}
		if (p[0].revents & POLLIN) {
			int next = accept4(LISTEN, NULL, NULL, SOCK_CLOEXEC);
			if (next >= 0) {
				// The new runtime's predecessor is dead, but what it sent may still be unread.
				while (conn >= 0 && serve(conn))
					;
				if (conn >= 0)
					close(conn);
				conn = next;
			}
		}
	}
}
*/
import "C"

// FDStoreEnv is the environment variable that makes a re-executed binary a
// file descriptor store: a process whose descriptor 3 is the socket it listens on.
const FDStoreEnv = "_CORACLE_FDSTORE"
