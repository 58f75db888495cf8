// Package export_carillon_plugin_template is a message template: a text in which {name} stands for the recipient's value in the
// audience's column "name".
package export_carillon_plugin_template

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	wit "go.bytecodealliance.org/pkg/wit/types"
	template "wit_component/carillon_plugin_template"
	types "wit_component/carillon_plugin_types"
)

type config struct {
	Text     string            `json:"text"`
	Subject  *string           `json:"subject"`
	Defaults map[string]string `json:"defaults"`
}

type (
	content = wit.Result[types.Content, types.PluginError]
	answer  = wit.Result[[]content, types.PluginError]
	names   = wit.Result[[]string, types.PluginError]
)

// Render makes messages: one answer for each job, so that a recipient without a value fails alone.
func Render(ctx types.Context, jobs []template.Job) answer {
	_, config, err := read(ctx)
	if err != nil {
		return wit.Err[[]content](types.MakePluginErrorInvalidConfig(err.Error()))
	}
	var contents []content
	for _, job := range jobs {
		made, err := render(config, job)
		if err != nil {
			contents = append(contents, wit.Err[types.Content](types.MakePluginErrorInvalidInput(err.Error())))
		} else {
			contents = append(contents, wit.Ok[types.Content, types.PluginError](made))
		}
	}
	return wit.Ok[[]content, types.PluginError](contents)
}

// Variables are the columns that the texts name.
func Variables(ctx types.Context) names {
	found, _, err := read(ctx)
	if err != nil {
		return wit.Err[[]string](types.MakePluginErrorInvalidConfig(err.Error()))
	}
	return wit.Ok[[]string, types.PluginError](found)
}

// The configuration and the names in its texts, each once.
func read(ctx types.Context) (names []string, config config, err error) {
	if err := json.Unmarshal([]byte(ctx.Config), &config); err != nil {
		return nil, config, err
	}
	collect := func(name string) (string, error) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return "", nil
	}
	if _, err := fill(config.Text, collect); err != nil {
		return nil, config, err
	}
	if config.Subject != nil {
		_, err = fill(*config.Subject, collect)
	}
	return names, config, err
}

func render(config config, job template.Job) (types.Content, error) {
	value := func(name string) (string, error) {
		for _, variable := range job.Recipient.Variables {
			if variable.F0 == name {
				return variable.F1, nil
			}
		}
		if value, ok := config.Defaults[name]; ok {
			return value, nil
		}
		return "", fmt.Errorf("the recipient has no %q, and there is no default for it", name)
	}
	text, err := fill(config.Text, value)
	if err != nil {
		return types.Content{}, err
	}
	content := types.Content{Text: text, Subject: wit.None[string]()}
	if config.Subject != nil {
		subject, err := fill(*config.Subject, value)
		if err != nil {
			return types.Content{}, err
		}
		content.Subject = wit.Some(subject)
	}
	return content, nil
}

// Puts values where the text has {name}.
func fill(text string, value func(name string) (string, error)) (string, error) {
	var filled strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		filled.WriteString(before)
		if !found {
			return filled.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", errors.New("a { is not closed")
		}
		put, err := value(name)
		if err != nil {
			return "", err
		}
		filled.WriteString(put)
		text = after
	}
}
