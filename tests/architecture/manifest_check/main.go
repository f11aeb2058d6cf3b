// Command manifestcheck renders a kustomization with kustomize's own library, decodes every Kubernetes object strictly
// into its API type, without a cluster, and prints all objects as JSON lines. Run by test_kubernetes.py.
package main

import (
	"errors"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Objects of other groups (Strimzi's) have no type here; the test holds them to their own schema.
var types = map[string]func() any{
	"v1/Namespace":                   func() any { return &corev1.Namespace{} },
	"v1/ConfigMap":                   func() any { return &corev1.ConfigMap{} },
	"v1/Service":                     func() any { return &corev1.Service{} },
	"apps/v1/Deployment":             func() any { return &appsv1.Deployment{} },
	"apps/v1/StatefulSet":            func() any { return &appsv1.StatefulSet{} },
	"batch/v1/Job":                   func() any { return &batchv1.Job{} },
	"policy/v1/PodDisruptionBudget":  func() any { return &policyv1.PodDisruptionBudget{} },
	"kafka.strimzi.io/v1/KafkaTopic": nil,
	"kafka.strimzi.io/v1/KafkaUser":  nil,
}

func main() {
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), os.Args[1])
	if err != nil {
		fail(err)
	}
	for _, object := range rendered.Resources() {
		name := object.GetGvk().ApiVersion() + "/" + object.GetKind()
		fresh, known := types[name]
		if !known {
			fail(fmt.Errorf("%s: no such type, or one that this check does not know", name))
		}
		line, err := object.MarshalJSON()
		if err != nil {
			fail(err)
		}
		if fresh != nil {
			// Case-sensitive, as the API server decodes; the standard library would take `readonly` for `readOnly`.
			breaches, err := json.UnmarshalStrict(line, fresh())
			if err = errors.Join(append(breaches, err)...); err != nil {
				fail(fmt.Errorf("%s %s: %w", name, object.GetName(), err))
			}
		}
		fmt.Println(string(line))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
