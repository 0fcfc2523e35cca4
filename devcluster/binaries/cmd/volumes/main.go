// Command volumes is the embedded cluster's volume provisioner: one directory of the node per claim.
//
// kube-controller-manager's own host-path provisioner makes directories that only root can write, and kubelet ignores
// fsGroup on host paths; the pods here run as other users. These directories are writable by everybody.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// name is the provisioner that the StorageClass of devcluster/manifests names.
const name = "airfreight.dev/directories"

type directories struct{ root string }

// Provision makes the directory of one claim. Called again for the same claim it returns the same volume.
func (d directories) Provision(_ context.Context, o controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	path := filepath.Join(d.root, o.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(path, 0o777); err != nil { // MkdirAll's mode passed through the umask
		return nil, controller.ProvisioningFinished, err
	}
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: o.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeSource:        v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the directory of one volume, and refuses any path that is not directly below the root.
func (d directories) Delete(_ context.Context, volume *v1.PersistentVolume) error {
	if volume.Spec.HostPath == nil {
		return fmt.Errorf("volume %s has no host path", volume.Name)
	}
	path := filepath.Clean(volume.Spec.HostPath.Path)
	if filepath.Dir(path) != filepath.Clean(d.root) || strings.HasPrefix(filepath.Base(path), ".") {
		return fmt.Errorf("volume %s lies at %s, which is not directly below %s", volume.Name, path, d.root)
	}
	return os.RemoveAll(path)
}

func run() error {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file of the cluster")
	root := flag.String("root", "", "directory that holds one directory per volume")
	flag.Parse()
	if *kubeconfig == "" || !filepath.IsAbs(*root) {
		return errors.New("--kubeconfig and an absolute --root are needed")
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	controller.NewProvisionController(klog.NewContext(ctx, klog.Background()), client, name, directories{*root},
		controller.LeaderElection(false)).Run(ctx)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "volumes:", err)
		os.Exit(2)
	}
}
