package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// redisConn speaks Redis' protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/).
type redisConn struct {
	net.Conn
	r *bufio.Reader
}

func redisDial(ctx context.Context, at string) (*redisConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return &redisConn{conn, bufio.NewReader(conn)}, nil
}

// do sends a command and returns its answer: a line, a number or a string.
func (c *redisConn) do(args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.Write([]byte(b.String())); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", err
		}
		text := make([]byte, n+2)
		_, err = io.ReadFull(c.r, text)
		return string(text[:n]), err
	}
	return "", fmt.Errorf("%s: %s", args[0], line)
}

// redisEntries is how many of the journal's entries a server has, up to the first that is missing or wrong.
func redisEntries(at string, most int) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := redisDial(ctx, at)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for n := range most {
		if got, err := conn.do("GET", entryKey(n)); err != nil || got != strconv.Itoa(n) {
			return n, err
		}
	}
	return most, nil
}

// redis: replicas find their primary by name and follow it; while all are rolled and the primary is deleted a client
// writes, and each write that was acknowledged is on the primary, and then on the replicas.
func redis(c *cluster) {
	c.system("redis")
	c.rolledOut("redis", "statefulset/redis")
	at := c.k("get", "service", "-n", "redis", "primary", "-o", "jsonpath={.spec.clusterIP}") + ":6379"
	j := &journal{put: func(ctx context.Context, n int) error {
		conn, err := redisDial(ctx, at)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.do("SET", entryKey(n), strconv.Itoa(n))
		return err
	}}
	acked := j.during(c, func() {
		c.k("delete", "pod", "-n", "redis", "redis-0")
		c.rolledOut("redis", "statefulset/redis")
		j.more(c, 5)
		c.k("rollout", "restart", "-n", "redis", "statefulset/redis")
		c.rolledOut("redis", "statefulset/redis")
	})
	if n, err := redisEntries(at, acked); n != acked {
		c.t.Errorf("%d writes were acknowledged; the primary lacks number %d (%v)", acked, n, err)
	}
	for _, p := range c.pods("redis", 3) {
		eventually(c.t, patience, p.Name+" to have all writes", func() bool {
			n, err := redisEntries(p.Status.PodIP+":6379", acked)
			return err == nil && n == acked
		})
	}
}
