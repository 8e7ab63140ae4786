package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"coracle/internal/dns"
	"coracle/internal/kind"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/why"
	whyserver "coracle/internal/why/server"
)

// notSteady is the exit code of `coracle why` for an object that is not as its user asked.
const notSteady = exitCode(2)

func newWhy() *cobra.Command {
	var namespace, output, kubeconfig, to, protocol string
	cmd := &cobra.Command{
		Use:   "why KIND/NAME",
		Short: "Explain what an object waits for, down to the root cause",
		Long: `Explain what the controllers do next for an object and what they wait for, and follow that
from object to object (Deployment, ReplicaSet, Pod, claim, class, node) to the root cause.
dns/NAME says what the cluster's name servers answer, from which objects, and why a name does not
exist; NAME in full, or as a pod of the namespace may write it.

pod/NAME --to TARGET says whether network policies let the pod connect there, by which rule of which
policy or by none, and to which endpoint a service would lead it. TARGET is pod/NAME:PORT, svc/NAME:PORT
or ADDRESS:PORT; a NAME of another namespace is NAMESPACE/NAME.

The exit code is 0 when the object is steady, 2 when something is yet to happen or stuck,
and 1 when the question cannot be answered.`,
		Example: `  coracle why deploy/web
  coracle why -n shop statefulset db
  coracle why pod/db-0 -o json
  coracle why dns/db-0.db
  coracle why pod/web-0 --to svc/db:5432`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "text" && output != "json" {
				return fmt.Errorf("--output %q: it is text or json", output)
			}
			path, err := whyPathFor(args)
			switch {
			case cmd.Flags().Changed("to"):
				path, err = whyConnection(args, to, protocol)
			case protocol != "":
				return errors.New("--protocol is that of a connection: say where it goes to with --to")
			}
			if err != nil {
				return err
			}
			chosen, err := chooseCluster(cmd, kubeconfig)
			if err != nil {
				return err
			}
			raw, report, err := askWhy(cmd.Context(), chosen, namespace, path)
			if err != nil {
				return err
			}
			return showWhy(cmd.OutOrStdout(), raw, report, output == "json")
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the object's namespace (default: the kubeconfig's)")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().StringVar(&to, "to", "", "explain the pod's connection to pod/NAME:PORT, svc/NAME:PORT or ADDRESS:PORT")
	cmd.Flags().StringVar(&protocol, "protocol", "", "of that connection: tcp, udp or sctp (default tcp)")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", kubeconfigUsage)
	return cmd
}

func showWhy(out io.Writer, raw []byte, report *why.Report, asJSON bool) error {
	var err error
	if asJSON {
		_, err = out.Write(raw)
	} else {
		err = report.Text(out)
	}
	if err == nil && !report.Steady() {
		err = notSteady
	}
	return err
}

// whyPathFor reads what is asked about, and returns its path at a server.
func whyPathFor(args []string) (func(namespace string) string, error) {
	if name, is := strings.CutPrefix(strings.Join(args, "/"), whyserver.NamesPath); is {
		if _, valid := dns.Valid(name); !valid {
			return nil, fmt.Errorf("%q is no DNS name: ask as dns/web, dns/db-0.db or dns/web.shop.svc.cluster.local", name)
		}
		return func(namespace string) string {
			return whyserver.Path + whyserver.NamesPath + namespace + "/" + url.PathEscape(name)
		}, nil
	}
	res, name, err := parseObject(args)
	if err != nil {
		return nil, err
	}
	return func(namespace string) string { return whyPathOf(res, object.Key{Namespace: namespace, Name: name}) }, nil
}

// whyConnection returns the path at which a server explains a pod's connection.
func whyConnection(args []string, to, protocol string) (func(namespace string) string, error) {
	res, name, err := parseObject(args)
	if err != nil {
		return nil, err
	}
	if res != resource.Pods {
		return nil, fmt.Errorf("%s: --to is about a pod's connection: name a pod, as in pod/web-0", strings.Join(args, " "))
	}
	if _, err := why.ParseTarget(to, metav1.NamespaceDefault, protocol); err != nil {
		return nil, fmt.Errorf("--to %w", err)
	}
	query := url.Values{"to": {to}, "protocol": {protocol}}.Encode()
	return func(namespace string) string {
		return whyserver.Path + whyserver.ConnectionPath + namespace + "/" + name + "?" + query
	}, nil
}

// parseObject reads KIND/NAME or KIND NAME.
func parseObject(args []string) (resource.Resource, string, error) {
	word, name, slash := strings.Cut(args[0], "/")
	switch {
	case len(args) == 2 && !slash:
		name = args[1]
	case len(args) == 2 || name == "" || strings.Contains(name, "/"):
		return resource.Resource{}, "", fmt.Errorf("%q: name one object, as KIND/NAME or KIND NAME, such as deployment/web", strings.Join(args, " "))
	}
	res, ok := findKind(strings.ToLower(word))
	if !ok {
		return res, "", fmt.Errorf("the server doesn't have a resource type %q", word)
	}
	return res, name, nil
}

// findKind finds a kind by its plural, singular or short name, with its group or without.
func findKind(word string) (resource.Resource, bool) {
	for _, k := range kind.All() {
		plain, group, qualified := strings.Cut(word, ".")
		if qualified && group != k.Group {
			continue
		}
		if plain == k.Plural || plain == k.Singular || plain == strings.ToLower(k.Resource.Kind) || slices.Contains(k.ShortNames, plain) {
			return k.Resource, true
		}
	}
	return resource.Resource{}, false
}

// askWhy asks a cluster's server; a refusal is the API's own message.
func askWhy(ctx context.Context, chosen choice, namespace string, path func(namespace string) string) ([]byte, *why.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	config, own, err := chosen.load()
	if err != nil {
		return nil, nil, err
	}
	raw, err := getRaw(ctx, config, path(cmp.Or(namespace, own)))
	if apierrors.IsNotFound(err) && !aboutAnObject(err) {
		err = chosen.stranger(config, err)
	}
	if err != nil {
		return nil, nil, err
	}
	report := &why.Report{}
	if err := json.Unmarshal(raw, report); err != nil {
		return nil, nil, fmt.Errorf("read the server's explanation: %w", err)
	}
	return raw, report, nil
}

// aboutAnObject says whether a refusal names an object, as the explainer's do: a server without explanations knows no such
// path.
func aboutAnObject(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name != ""
}

func whyPathOf(res resource.Resource, key object.Key) string {
	if !res.Namespaced {
		return whyserver.Path + res.String() + "/" + key.Name
	}
	return whyserver.Path + res.String() + "/" + key.Namespace + "/" + key.Name
}

// getRaw reads a path of the API server that is no resource.
func getRaw(ctx context.Context, config *rest.Config, path string) ([]byte, error) {
	api, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	defer api.CloseIdleConnections()
	return getWith(ctx, api, config, path)
}

// getWith is getRaw by a client that is kept.
func getWith(ctx context.Context, api *http.Client, config *rest.Config, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(config.Host, "/")+path, nil)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	resp, err := api.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	status := metav1.Status{}
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(resp.StatusCode), Reason: reasonOf(resp.StatusCode),
		Message: fmt.Sprintf("the server answered %s to %s", resp.Status, path),
	}}
}

// reasonOf is the reason of an answer that gives none.
func reasonOf(code int) metav1.StatusReason {
	if code == http.StatusNotFound {
		return metav1.StatusReasonNotFound
	}
	return metav1.StatusReasonUnknown
}
