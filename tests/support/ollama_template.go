// Renders Ollama's TEMPLATE as Ollama's documentation says: Go's own text/template over a map with System, Messages
// (with Role, Content, Thinking), Think and IsThinkSet. It reads cases as JSON and writes what each gives, and the think
// tags: the texts at both ends of the innermost block that holds .Thinking in a loop over .Messages.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type message struct{ Role, Content, Thinking string }

type conversation struct {
	Messages []message
	Think    *bool
}

type given struct {
	Template      string
	Conversations []conversation
}

type written struct {
	Error, Opening, Closing string
	Texts                   []string
}

// find calls use for each list of nodes that directly holds an action which prints .Thinking.
func find(list *parse.ListNode, use func(*parse.ListNode)) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch node := node.(type) {
		case *parse.ActionNode:
			if node.String() == "{{.Thinking}}" {
				use(list)
			}
		case *parse.IfNode:
			find(node.List, use)
			find(node.ElseList, use)
		case *parse.RangeNode:
			if strings.Contains(node.Pipe.String(), ".Messages") {
				find(node.List, use)
			}
		}
	}
}

func run(in given) (out written) {
	parsed, err := template.New("").Option("missingkey=zero").Parse(in.Template)
	if err != nil {
		return written{Error: err.Error()}
	}
	find(parsed.Root, func(list *parse.ListNode) {
		out.Opening, out.Closing = "", ""
		if first, ok := list.Nodes[0].(*parse.TextNode); ok {
			out.Opening = strings.TrimSpace(first.String())
		}
		if last, ok := list.Nodes[len(list.Nodes)-1].(*parse.TextNode); ok {
			out.Closing = strings.TrimSpace(last.String())
		}
	})
	for _, each := range in.Conversations {
		system := []string{}
		for _, message := range each.Messages {
			if message.Role == "system" {
				system = append(system, message.Content)
			}
		}
		values := map[string]any{
			"System": strings.Join(system, "\n\n"), "Messages": each.Messages, "Response": "",
			"Think": each.Think != nil && *each.Think, "IsThinkSet": each.Think != nil,
		}
		var text strings.Builder
		if err := parsed.Execute(&text, values); err != nil {
			return written{Error: err.Error()}
		}
		out.Texts = append(out.Texts, text.String())
	}
	return out
}

func main() {
	var cases []given
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	results := []written{}
	for _, each := range cases {
		results = append(results, run(each))
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(results); err != nil {
		panic(err)
	}
}
