package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"

	nad "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	tekton "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"knative.dev/pkg/apis"
	kubevirt "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// validated is what Tekton's webhook does with an object: it fills in defaults, then it validates.
type validated interface {
	SetDefaults(context.Context)
	Validate(context.Context) *apis.FieldError
}

// header is what every object begins with.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string            `json:"name"`
		GenerateName string            `json:"generateName"`
		Labels       map[string]string `json:"labels"`
	} `json:"metadata"`
}

// kinds are the types that objects are decoded into, each by version and kind.
var kinds = map[string]func() any{
	"tekton.dev/v1 Task":                              func() any { return &tekton.Task{} },
	"tekton.dev/v1 TaskRun":                           func() any { return &tekton.TaskRun{} },
	"tekton.dev/v1 Pipeline":                          func() any { return &tekton.Pipeline{} },
	"tekton.dev/v1 PipelineRun":                       func() any { return &tekton.PipelineRun{} },
	"kubevirt.io/v1 VirtualMachine":                   func() any { return &kubevirt.VirtualMachine{} },
	"kubevirt.io/v1 VirtualMachineInstanceMigration":  func() any { return &kubevirt.VirtualMachineInstanceMigration{} },
	"k8s.cni.cncf.io/v1 NetworkAttachmentDefinition":  func() any { return &nad.NetworkAttachmentDefinition{} },
	"nmstate.io/v1 NodeNetworkConfigurationPolicy":    func() any { return &policy{} },
	"k8s.ovn.org/v1 ClusterUserDefinedNetwork":        func() any { return &userDefinedNetwork{} },
	"v1 ConfigMap":                                    func() any { return &corev1.ConfigMap{} },
	"v1 Namespace":                                    func() any { return &corev1.Namespace{} },
	"v1 Pod":                                          func() any { return &corev1.Pod{} },
	"v1 Secret":                                       func() any { return &corev1.Secret{} },
	"v1 ServiceAccount":                               func() any { return &corev1.ServiceAccount{} },
	"apps/v1 Deployment":                              func() any { return &appsv1.Deployment{} },
	"batch/v1 CronJob":                                func() any { return &batchv1.CronJob{} },
	"coordination.k8s.io/v1 Lease":                    func() any { return &coordinationv1.Lease{} },
	"rbac.authorization.k8s.io/v1 ClusterRole":        func() any { return &rbacv1.ClusterRole{} },
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
	"rbac.authorization.k8s.io/v1 Role":               func() any { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1 RoleBinding":        func() any { return &rbacv1.RoleBinding{} },
}

// object returns what an object is called, and what is wrong with it.
func object(ctx context.Context, document []byte) (string, []string) {
	var head header
	if err := yaml.Unmarshal(document, &head); err != nil {
		return "an object", []string{err.Error()}
	}
	name := head.Kind + " " + head.Metadata.Name + head.Metadata.GenerateName
	make, known := kinds[head.APIVersion+" "+head.Kind]
	if !known {
		return name, []string{fmt.Sprintf("no type is known for %s %s", head.APIVersion, head.Kind)}
	}
	typed := make()
	if err := yaml.UnmarshalStrict(document, typed); err != nil {
		return name, []string{err.Error()}
	}
	unknown, err := lost(document, typed)
	if err != nil {
		return name, []string{err.Error()}
	}
	problems := append(metadata(head), unknown...)
	if named, ok := typed.(metav1.Object); ok && named.GetName() == "" {
		named.SetName(named.GetGenerateName() + "x7k2p") // the API server has done it when the webhook is asked
	}
	if judged, ok := typed.(validated); ok {
		judged.SetDefaults(ctx)
		if err := judged.Validate(ctx); err != nil {
			problems = append(problems, strings.Split(strings.TrimSpace(err.Error()), "\n")...)
		}
	}
	if own, ok := typed.(interface{ problems() []string }); ok {
		problems = append(problems, own.problems()...)
	}
	return name, problems
}

// metadata returns what the API server would have against an object's name and labels.
func metadata(head header) []string {
	var problems []string
	name := head.Metadata.Name
	if name == "" && head.Metadata.GenerateName == "" {
		return []string{"it has no name"}
	}
	if name != "" {
		problems = append(problems, validation.IsDNS1123Subdomain(strings.ReplaceAll(name, ":", "-"))...)
	}
	for key, value := range head.Metadata.Labels {
		problems = append(problems, validation.IsQualifiedName(key)...)
		problems = append(problems, validation.IsValidLabelValue(value)...)
	}
	return problems
}

func newBuffered(content []byte) *bufio.Reader {
	return bufio.NewReader(bytes.NewReader(content))
}

func withoutComments(document []byte) []byte {
	var kept [][]byte
	for _, line := range bytes.Split(document, []byte("\n")) {
		trimmed := bytes.TrimSpace(line)
		if !bytes.HasPrefix(trimmed, []byte("#")) && !bytes.Equal(trimmed, []byte("---")) {
			kept = append(kept, line)
		}
	}
	return bytes.Join(kept, []byte("\n"))
}

// meta is the metadata that the schemas of our own allow.
type meta struct {
	Name            string            `json:"name"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
	OwnerReferences []owner           `json:"ownerReferences,omitempty"`
}

type owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// missing returns the names of the fields that are empty.
func missing(where string, fields map[string]any) []string {
	var problems []string
	for name, value := range fields {
		if reflect.ValueOf(value).IsZero() {
			problems = append(problems, fmt.Sprintf("%s.%s is missing", where, name))
		}
	}
	return problems
}
