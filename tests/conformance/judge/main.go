// Judge reads Kubernetes objects (YAML or JSON, several to a file) and prints what upstream's own types and validation
// have against them, one line each. It exits with 1 when there is anything, and with 2 when it cannot read a file.
//
//	judge FILE...            objects as they are
//	judge -kustomize DIR     the objects that a kustomization builds; they are printed with -print
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	directory := flag.String("kustomize", "", "build the kustomization in this directory and judge that, too")
	show := flag.Bool("print", false, "print the objects that the kustomization builds")
	flag.Parse()

	var problems int
	for _, file := range flag.Args() {
		content, err := os.ReadFile(file)
		exitOn(err)
		problems += judge(file, content)
	}
	if *directory != "" {
		content, err := built(*directory)
		exitOn(err)
		if *show {
			_, err := os.Stdout.Write(content)
			exitOn(err)
		}
		problems += judge(*directory, content)
	}
	if problems > 0 {
		os.Exit(1)
	}
}

// judge prints what is wrong with the objects in a file, and returns how many problems there are.
func judge(file string, content []byte) int {
	var problems, objects int
	reader := utilyaml.NewYAMLReader(newBuffered(content))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		exitOn(err)
		if len(bytes.TrimSpace(withoutComments(document))) == 0 {
			continue
		}
		objects++
		name, found := object(context.Background(), document)
		for _, problem := range found {
			fmt.Fprintf(os.Stderr, "%s: %s: %s\n", file, name, problem)
		}
		problems += len(found)
	}
	if objects == 0 {
		fmt.Fprintf(os.Stderr, "%s: there is no object in it\n", file)
		return problems + 1
	}
	return problems
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
