package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"coracle/internal/client"
	"coracle/internal/client/remote"
	"coracle/internal/object"
	"coracle/internal/rehearse"
	"coracle/internal/rehearse/manifest"
	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// notConverging is the exit code of `coracle rehearse` when the changes would not come to their end.
const notConverging = exitCode(1)

// rehearsal are the flags of `coracle rehearse`.
type rehearsal struct {
	files, scale, restart, remove, fail, drain, cordon []string
	readyAfter, stopAfter, within                      time.Duration
	namespace, output, kubeconfig                      string
	verbose                                            bool
}

func newRehearse() *cobra.Command {
	var o rehearsal
	cmd := &cobra.Command{
		Use:   "rehearse [-f FILE] [--scale KIND/NAME=N] [--drain-node NODE] ...",
		Short: "Show what a change would do, without doing it",
		Long: `Copy the present cluster into a virtual one, make the changes there, and run the production controllers and
scheduler in virtual time until nothing is left to do. The answer is a timeline: what is created, deleted and moved, the
lowest availability of each workload, how long it takes, what would get stuck and why, and which disruption budgets
and quotas would be hit. Nothing in the cluster changes: it is only read, and asked for dry runs.

Several changes are rehearsed together. Pods are assumed to become ready as those of their image do here; the
assumptions are part of the answer.

The exit code is 0 when the changes converge, and 1 when they would not or when the question cannot be answered
(then the message begins with "error:"). What was not steady before and is not changed does not count.`,
		Example: `  coracle rehearse -f web.yaml                        what would kubectl apply -f web.yaml do?
  coracle rehearse -f web.yaml --ready-after 20s      ... if the new pods took 20 seconds to become ready
  coracle rehearse --drain-node node-1                would the budgets allow it, and where do the pods go?
  coracle rehearse --fail-node node-2 --within 15m    what if node-2 lost its power now?
  coracle rehearse --scale deploy/web=50              is there room, and quota?
  kustomize build . | coracle rehearse -f - -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.files, "filename", "f", nil, "a file or folder of manifests to apply, or - for standard input; may be given several times")
	f.StringArrayVar(&o.scale, "scale", nil, "KIND/NAME=N: set the number of replicas")
	f.StringArrayVar(&o.restart, "restart", nil, "KIND/NAME: restart a workload's pods, as kubectl rollout restart does")
	f.StringArrayVar(&o.remove, "delete", nil, "KIND/NAME: delete an object")
	f.StringArrayVar(&o.fail, "fail-node", nil, "a node that loses its power")
	f.StringArrayVar(&o.drain, "drain-node", nil, "a node to cordon and drain, as kubectl drain --ignore-daemonsets does")
	f.StringArrayVar(&o.cordon, "cordon", nil, "a node to cordon")
	f.DurationVar(&o.readyAfter, "ready-after", 0, "how long after their start pods become ready (default: as those of their image here)")
	f.DurationVar(&o.stopAfter, "stop-after", 0, "how long pods take to stop (default: 1s, or their grace period if that is shorter)")
	f.DurationVar(&o.within, "within", time.Hour, "how far to look ahead, in virtual time")
	f.StringVarP(&o.namespace, "namespace", "n", "", "the namespace of objects that name none (default: the kubeconfig's)")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", kubeconfigUsage)
	f.BoolVar(&o.verbose, "verbose", false, "show every write of the virtual cluster")
	return cmd
}

func (o *rehearsal) run(cmd *cobra.Command) error {
	if err := o.check(cmd); err != nil {
		return err
	}
	chosen, err := chooseCluster(cmd, o.kubeconfig)
	if err != nil {
		return err
	}
	api, err := o.reach(chosen)
	if err != nil {
		return err
	}
	defer api.Close()
	in := rehearse.Input{Start: time.Now(), Namespace: o.namespace, Within: o.within, Verbose: o.verbose}
	if cmd.Flags().Changed("ready-after") {
		in.ReadyAfter = &o.readyAfter
	}
	if cmd.Flags().Changed("stop-after") {
		in.StopAfter = &o.stopAfter
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
	defer cancel()
	if in.Objects, err = everything(ctx, api); err != nil {
		return err
	}
	if err := o.changes(ctx, api, cmd.InOrStdin(), &in); err != nil {
		return err
	}
	report, err := rehearse.Rehearse(in)
	if err != nil {
		return err
	}
	return showRehearsal(cmd.OutOrStdout(), report, api.Config().Host, o.output == "json")
}

func (o *rehearsal) check(cmd *cobra.Command) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q: it is text or json", o.output)
	}
	if len(o.files)+len(o.scale)+len(o.restart)+len(o.remove)+len(o.fail)+len(o.drain)+len(o.cordon) == 0 {
		return errors.New("nothing to rehearse: give a manifest (-f FILE) or one of --scale, --restart, --delete, --drain-node, --fail-node, --cordon")
	}
	for _, flag := range []string{"ready-after", "stop-after", "within"} {
		if d, err := cmd.Flags().GetDuration(flag); err != nil || d < 0 {
			return fmt.Errorf("--%s %s: it is a time such as 20s, not less than nothing", flag, d)
		}
	}
	if o.within == 0 {
		return errors.New("--within 0s: nothing happens in no time")
	}
	return nil
}

// reach returns the client of the chosen cluster, whose namespace is the default.
func (o *rehearsal) reach(chosen choice) (*remote.Client, error) {
	config, own, err := chosen.load()
	if err != nil {
		return nil, err
	}
	o.namespace = cmp.Or(o.namespace, own)
	config.WarningHandler = rest.NoWarnings{} // of deprecated kinds that nobody asked for by name
	return remote.New(config)
}

// everything lists the objects of every kind.
func everything(ctx context.Context, api client.Interface) ([]object.Object, error) {
	var out []object.Object
	for _, res := range resource.All() {
		items, _, err := api.List(ctx, res, client.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", res, err)
		}
		out = append(out, items...)
	}
	return out, nil
}

// changes turns the flags into what is to be done.
func (o *rehearsal) changes(ctx context.Context, api dryRunner, stdin io.Reader, in *rehearse.Input) error {
	docs, err := manifest.Read(o.files, stdin, o.namespace)
	if err != nil {
		return err
	}
	if err := applied(ctx, api, docs, in); err != nil {
		return err
	}
	for _, s := range o.scale {
		target, number, _ := strings.Cut(s, "=")
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("--scale %q: it is KIND/NAME=N, such as deploy/web=5", s)
		}
		if err := o.named(in, "scale", rehearse.Scale, target, int32(n)); err != nil {
			return err
		}
	}
	for _, s := range o.restart {
		if err := o.named(in, "restart", rehearse.Restart, s, 0); err != nil {
			return err
		}
	}
	for _, s := range o.remove {
		if err := o.named(in, "delete", rehearse.Delete, s, 0); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		verb  rehearse.Verb
		nodes []string
	}{{rehearse.Cordon, o.cordon}, {rehearse.Fail, o.fail}, {rehearse.Drain, o.drain}} {
		for _, name := range list.nodes {
			name = strings.TrimPrefix(name, "node/")
			in.Changes = append(in.Changes, rehearse.Change{Verb: list.verb, Ref: object.Ref{Resource: resource.Nodes, Key: object.Key{Name: name}}})
		}
	}
	return nil
}

// named adds a change to an object that a flag names.
func (o *rehearsal) named(in *rehearse.Input, flag string, verb rehearse.Verb, target string, replicas int32) error {
	res, name, err := parseObject([]string{target})
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	ref := object.Ref{Resource: res, Key: object.Key{Name: name}}
	if res.Namespaced {
		ref.Namespace = o.namespace
	}
	in.Changes = append(in.Changes, rehearse.Change{Verb: verb, Ref: ref, Replicas: replicas})
	return nil
}

// dryRunner asks a server what an apply would store.
type dryRunner interface {
	DryRunApply(ctx context.Context, ref object.Ref, manager string, document []byte) (client.Object, error)
}

// applyManager is who kubectl apply --server-side says it is: what it owned and a manifest lacks, goes.
const applyManager = "kubectl"

// applied adds an apply of each document, as the server would store it.
func applied(ctx context.Context, api dryRunner, docs []manifest.Document, in *rehearse.Input) error {
	made := map[string]bool{}
	for _, d := range docs {
		if d.Ref.Resource == resource.Namespaces {
			made[d.Ref.Name] = true
		}
	}
	for _, o := range in.Objects {
		if resource.Of(o) == resource.Namespaces {
			delete(made, o.GetName())
		}
	}
	local := 0
	for _, d := range docs {
		ch := rehearse.Change{Verb: rehearse.Apply, Ref: d.Ref}
		var err error
		if d.Ref.Resource.Namespaced && made[d.Ref.Namespace] {
			// No server has defaults or an opinion for a namespace that is not there.
			ch.Object, err = decoded(d.JSON)
			local++
		} else {
			ch.Object, err = api.DryRunApply(ctx, d.Ref, applyManager, d.JSON)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.From, err)
		}
		in.Changes = append(in.Changes, ch)
	}
	if local > 0 {
		in.Notes = append(in.Notes, fmt.Sprintf("%d of the objects are in a namespace that is not there yet: their defaults and checks are this program's, not the server's", local))
	}
	return nil
}

func decoded(raw []byte) (object.Object, error) {
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	obj, ok := o.(object.Object)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%T is no object to apply", o))
	}
	return obj, nil
}

func showRehearsal(out io.Writer, report *rehearse.Report, where string, asJSON bool) error {
	var err error
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(report)
	} else {
		err = report.Text(out, where)
	}
	if err == nil && !report.Converges {
		err = notConverging
	}
	return err
}
