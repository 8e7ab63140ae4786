package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"coracle/internal/client"
	"coracle/internal/nodestate"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

// apiTimeout bounds the questions that a command asks the API.
const apiTimeout = 5 * time.Second

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the cluster's processes and nodes",
		Long:  "Show the cluster's processes and nodes. The exit code is 1 when one of them is not running or not ready.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dataDir(cmd)
			if err != nil {
				return err
			}
			return status(cmd.Context(), cmd.OutOrStdout(), dir)
		},
	}
}

func status(ctx context.Context, out io.Writer, dir DataDir) error {
	cfg, err := loadConfig(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Cluster %s at https://%s, in %s\n\n", cfg.ID, cfg.Listen, dir)
	healthy := printProcesses(out, dir)
	if runningPID(dir.Lock("server")) != 0 {
		ready, err := printNodes(ctx, out, dir)
		if err != nil {
			return err
		}
		writes, err := printStore(ctx, out, dir)
		if err != nil {
			return err
		}
		if !writes {
			return exitCode(1) // nothing is missing that could be started
		}
		healthy = healthy && ready
	}
	if !healthy {
		fmt.Fprintf(out, "\nStart what is missing: coracle up --detach --data-dir %s\n", dir)
		return exitCode(1)
	}
	return nil
}

// printProcesses lists the cluster's processes and says whether all of them run.
func printProcesses(out io.Writer, dir DataDir) bool {
	names := []string{"server"}
	for _, node := range dir.NodeNames() {
		names = append(names, nodeProcess(node), runtimeProcess(node))
	}
	all := true
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "PROCESS\tPID\tMEMORY\tUP")
	for _, name := range names {
		pid := runningPID(dir.Lock(name))
		if pid == 0 {
			all = false
			fmt.Fprintf(w, "%s\tnot running\t\t\n", name)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", name, pid, size(residentBytes(pid)), duration.HumanDuration(time.Since(startOf(pid))))
	}
	w.Flush()
	return all
}

// printNodes lists the nodes as the API knows them and says whether all are Ready.
func printNodes(ctx context.Context, out io.Writer, dir DataDir) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	api, err := adminClient(dir)
	if err != nil {
		return false, err
	}
	nodes, _, err := api.List(ctx, resource.Nodes, client.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("ask the server for its nodes: %w", err)
	}
	pods, _, err := api.List(ctx, resource.Pods, client.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("ask the server for its pods: %w", err)
	}
	running := map[string]int{}
	for _, o := range pods {
		if p := o.(*corev1.Pod); p.Status.Phase == corev1.PodRunning {
			running[p.Spec.NodeName]++
		}
	}
	all := true
	var sims simulated
	var held []*corev1.Node
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "\nNODE\tSTATE\tPOD RANGE\tRUNNING PODS")
	for _, o := range nodes {
		n := o.(*corev1.Node)
		if nodestate.Simulated(n) {
			sims.count(n, running[n.Name])
			continue
		}
		state := nodeState(n)
		all = all && nodestate.Ready(n)
		if holdReason(n) != "" {
			held = append(held, n)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", n.Name, state, n.Spec.PodCIDR, running[n.Name])
	}
	for _, name := range unregistered(dir, nodes) {
		all = false
		fmt.Fprintf(w, "%s\tnot registered\t\t\n", name)
	}
	if sims.nodes > 0 {
		all = all && sims.ready+sims.silent >= sims.nodes
		fmt.Fprintf(w, "%s\t%s\t\t%d\n", plural(sims.nodes, "simulated node"), sims.state(), sims.pods)
	}
	err = w.Flush()
	tellHolds(out, held)
	return all, err
}

// simulated sums up the simulated nodes: there may be thousands.
type simulated struct{ nodes, ready, silent, pods int }

func (s *simulated) count(n *corev1.Node, pods int) {
	s.nodes++
	s.pods += pods
	switch {
	case nodestate.Ready(n):
		s.ready++
	case simnode.Silent(n):
		s.silent++ // as somebody wants it
	}
}

func (s *simulated) state() string {
	switch {
	case s.ready == s.nodes:
		return "Ready"
	case s.silent == 0:
		return fmt.Sprintf("%d Ready", s.ready)
	}
	return fmt.Sprintf("%d Ready, %d silent", s.ready, s.silent)
}

func nodeState(n *corev1.Node) string {
	state := "NotReady"
	if nodestate.Ready(n) {
		state = "Ready"
	}
	if reason := holdReason(n); reason != "" {
		state += "," + reason
	}
	if n.Spec.Unschedulable {
		state += ",SchedulingDisabled"
	}
	return state
}

// residentBytes is the memory a process has resident, 0 when it cannot be told.
func residentBytes(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// clockTicks is USER_HZ, which Linux fixes at 100 for what it shows in /proc.
const clockTicks = 100

// startOf is when a process was started, from the kernel's record of it; now when not known.
func startOf(pid int) time.Time {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Now()
	}
	// The command's name, in parentheses, may hold spaces.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil || len(fields) < 20 {
		return time.Now()
	}
	since, err1 := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
	ticks, err2 := strconv.ParseFloat(fields[19], 64)
	if errors.Join(err1, err2) != nil {
		return time.Now()
	}
	return time.Now().Add(-time.Duration((since - ticks/clockTicks) * float64(time.Second)))
}

// processStart is when this process was started: before the runtime and every package
// initialisation, so that the times shown to users are those they lived through.
func processStart() time.Time { return startOf(os.Getpid()) }
