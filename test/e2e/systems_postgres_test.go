package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sql asks a PostgreSQL server in its own pod.
func (c *cluster) sql(pod, query string) result {
	return c.try("exec", "-n", "pg", pod, "-c", "postgres", "--", "psql", "-h", "127.0.0.1", "-U", "postgres", "-AtX", "-c", query)
}

// databaseAndWeb: a replica copies its primary by the primary's name, and a web application in front of it is scaled
// and rolled under load without a failed request. Then both servers are rolled and deleted while the application writes: each row that was
// committed is on the primary and on its replica.
func databaseAndWeb(c *cluster) {
	c.system("postgres")
	c.system("web")
	c.rolledOut("pg", "statefulset/pg")
	c.rolledOut("pg", "deployment/web")
	if got := c.sql("pg-1", "select pg_is_in_recovery()").out; got != "t\n" {
		c.t.Errorf("the replica is in recovery: %q", got)
	}
	at := "http://" + c.k("get", "service", "-n", "pg", "web", "-o", "jsonpath={.spec.clusterIP}")
	webUnderLoad(c, at)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	j := &journal{put: func(ctx context.Context, n int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/?note="+entryKey(n), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusOK {
			err = errors.Join(err, errors.New(resp.Status))
		}
		return errors.Join(err, resp.Body.Close())
	}}
	acked := j.during(c, func() {
		c.k("delete", "pod", "-n", "pg", "pg-0")
		c.rolledOut("pg", "statefulset/pg")
		j.more(c, 5)
		c.k("rollout", "restart", "-n", "pg", "statefulset/pg")
		c.rolledOut("pg", "statefulset/pg")
	})
	// A write whose acknowledgement was lost is there twice: no harm, and not what is asked here.
	for _, pod := range []string{"pg-0", "pg-1"} {
		var r result
		eventually(c.t, patience, "all rows on "+pod, func() bool {
			r = c.sql(pod, "select count(distinct note) from visits where note between '"+entryKey(0)+"' and '"+entryKey(acked-1)+"'")
			return r.out == strconv.Itoa(acked)+"\n"
		})
	}
}

// webUnderLoad scales the application from one replica to three, rolls it, and scales it back under load.
func webUnderLoad(c *cluster, at string) {
	c.t.Helper()
	l := &load{}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { l.run(ctx, 100, []string{at + "/?note=load", at + "/count"}) })
	defer running.Wait()
	defer stop()
	eventually(c.t, patience, "load", func() bool { return l.sent.Load() > 100 })
	began := time.Now()
	c.k("scale", "-n", "pg", "deployment/web", "--replicas=3")
	c.rolledOut("pg", "deployment/web")
	c.k("rollout", "restart", "-n", "pg", "deployment/web")
	c.rolledOut("pg", "deployment/web")
	c.k("scale", "-n", "pg", "deployment/web", "--replicas=2")
	c.rolledOut("pg", "deployment/web")
	sent := l.sent.Load()
	eventually(c.t, patience, "load after the last change", func() bool { return l.sent.Load() > sent+100 })
	stop()
	running.Wait()
	told := fmt.Sprintf("%d of %d requests failed within %s", l.failed.Load(), l.sent.Load(), time.Since(began).Round(time.Second))
	if l.failed.Load() > 0 {
		c.t.Errorf("%s:\n%s", told, strings.Join(l.errors[:min(len(l.errors), 20)], "\n"))
	}
	c.t.Log(told)
	if by := c.sql("pg-0", "select count(distinct by) from visits").out; by == "1\n" || by == "" {
		c.t.Errorf("visits were written by %q pods, want several", by)
	}
}
